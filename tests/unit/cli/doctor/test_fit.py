import pytest
from trivium.v1 import common_pb2, llm_pb2, orchestrator_pb2, router_pb2, slm_pb2

from services.cli.doctor.fit import misfits
from services.cli.pair.probe import Probe, ServerInfo
from tests.unit.cli.fakes import LLM, ROUTER, SLM


def changed(model: common_pb2.ModelInfo, **fields: object) -> common_pb2.ModelInfo:
    copy = common_pb2.ModelInfo()
    copy.CopyFrom(model)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


def answered(service: str, info: ServerInfo) -> Probe:
    return Probe(service, "h:1", "SERVING", 1.0, info)


def pair(
    slm: common_pb2.ModelInfo = SLM, llm: common_pb2.ModelInfo = LLM, router: router_pb2.RouterInfo = ROUTER
) -> list[Probe]:
    return [
        answered("slm", slm_pb2.SlmServiceGetServerInfoResponse(model=slm)),
        answered("llm", llm_pb2.LlmServiceGetServerInfoResponse(model=llm)),
        answered("router", router_pb2.RouterServiceGetServerInfoResponse(router=router)),
    ]


def test_misfits_one_pair_is_none() -> None:
    assert misfits(pair()) == []


def test_misfits_other_tokenizer_names_both_models() -> None:
    [problem] = misfits(pair(llm=changed(LLM, tokenizer_sha256="bb" * 32)))
    assert problem == "tokenizers differ: slm tiny/slm has aaaaaaaaaaaa, llm tiny/llm has bbbbbbbbbbbb"


@pytest.mark.parametrize(("field", "value"), [("hidden_size", 64), ("vocab_size", 1000)])
def test_misfits_router_of_another_slm_names_both_and_the_field(field: str, value: int) -> None:
    [problem] = misfits(pair(slm=changed(SLM, **{field: value})))
    assert "router tiny/router (trained for tiny/slm)" in problem
    assert f"{field} {getattr(ROUTER, field)} against {value}" in problem


def test_misfits_router_of_other_weights_names_both_unless_allowed() -> None:
    router = router_pb2.RouterInfo()
    router.CopyFrom(ROUTER)
    router.slm_revision = "11" * 8
    probes = pair(slm=changed(SLM, weights_revision="22" * 8), router=router)
    [problem] = misfits(probes)
    assert "router tiny/router (trained for tiny/slm) and slm tiny/slm" in problem
    assert f"weights {'11' * 8} against {'22' * 8}" in problem
    assert misfits(probes, allow_other_slm=True) == []


def test_misfits_orchestrator_with_another_model_names_both() -> None:
    info = orchestrator_pb2.OrchestratorServiceGetServerInfoResponse(
        slm=changed(SLM, model_id="other/slm"), llm=LLM, router=ROUTER
    )
    [problem] = misfits([*pair(), answered("orchestrator", info)])
    assert problem == "the orchestrator uses another slm than the one asked: other/slm against tiny/slm"


def test_misfits_router_beside_an_orchestrator_without_one_is_named() -> None:
    router = router_pb2.RouterInfo()
    router.CopyFrom(ROUTER)
    router.weights_sha256 = "cc" * 32
    info = orchestrator_pb2.OrchestratorServiceGetServerInfoResponse(slm=SLM, llm=LLM)
    assert misfits([*pair()[:2], answered("orchestrator", info)]) == []
    [problem] = misfits([*pair(router=router), answered("orchestrator", info)])
    assert problem == f"the orchestrator uses another router than the one asked: none against {'cc' * 32}"


def test_misfits_silent_services_are_not_compared() -> None:
    assert misfits([Probe("slm", "h:1", "UNREACHABLE"), *pair()[1:]]) == []
