import pytest
from trivium.v1 import common_pb2, llm_pb2, orchestrator_pb2, slm_pb2

from services.cli.doctor.kv_budget import kv_advice
from services.cli.pair.probe import Probe, ServerInfo
from tests.unit.cli.fakes import LLM, SLM


def answered(service: str, info: ServerInfo) -> Probe:
    return Probe(service, "h:1", "SERVING", 1.0, info)


def pair(orchestrator: dict[str, int], llm: dict[str, int], context_len: int = 2048) -> list[Probe]:
    """A pair whose SLM has room for everything."""
    model = common_pb2.ModelInfo()
    model.CopyFrom(LLM)
    model.context_length = context_len
    roomy = common_pb2.EngineLoad(num_kv_tokens_capacity=2**30)
    return [
        answered("slm", slm_pb2.SlmServiceGetServerInfoResponse(model=SLM, load=roomy)),
        answered("llm", llm_pb2.LlmServiceGetServerInfoResponse(model=model, load=common_pb2.EngineLoad(**llm))),
        answered(
            "orchestrator",
            orchestrator_pb2.OrchestratorServiceGetServerInfoResponse(
                load=orchestrator_pb2.OrchestratorLoad(**orchestrator)  # type: ignore[arg-type]
            ),
        ),
    ]


def test_kv_advice_default_budget_holds_the_default_number_of_requests() -> None:
    assert kv_advice(pair({"max_active_requests": 256}, {"num_kv_tokens_capacity": 65536})) == []


@pytest.mark.parametrize(
    ("orchestrator", "llm", "context_len", "said"),
    [
        ({}, {}, 2048, "hold 2 sequences of 256 tokens"),
        ({}, {}, 100, "hold 5 sequences of 100 tokens"),
        ({"num_tokens_accepted": 2000, "num_requests_finished": 10}, {}, 2048, "hold 2 sequences of 200 tokens"),
        ({}, {"num_kv_tokens_used": 480, "num_active_sequences": 4}, 2048, "hold 4 sequences of 120 tokens"),
        (
            {"num_tokens_accepted": 2000, "num_requests_finished": 10},
            {"num_kv_tokens_used": 480, "num_active_sequences": 4},
            2048,
            "hold 2 sequences of 200 tokens",
        ),
        ({"num_llm_replicas": 3}, {}, 2048, "hold 6 sequences of 256 tokens"),
    ],
    ids=["nothing ran", "short context", "answers", "running", "the longer", "replicas"],
)
def test_kv_advice_counts_sequences_of_the_length_that_was_seen(
    orchestrator: dict[str, int], llm: dict[str, int], context_len: int, said: str
) -> None:
    [advice] = kv_advice(
        pair({"max_active_requests": 256, **orchestrator}, {"num_kv_tokens_capacity": 512, **llm}, context_len)
    )
    assert advice.startswith(f"llm: 512 tokens of KV {said}; 256 may run: the youngest will wait.")


@pytest.mark.parametrize(
    ("max_active", "capacity"),
    [(2, 512), (0, 512), (256, 0)],
    ids=["few requests", "limit unknown", "budget unknown"],
)
def test_kv_advice_nothing_to_say(max_active: int, capacity: int) -> None:
    assert kv_advice(pair({"max_active_requests": max_active}, {"num_kv_tokens_capacity": capacity})) == []


def test_kv_advice_without_an_orchestrator_there_is_nothing_to_compare_with() -> None:
    assert kv_advice(pair({"max_active_requests": 256}, {"num_kv_tokens_capacity": 512})[:2]) == []
