from __future__ import annotations

import pytest
from trivium.v1 import orchestrator_pb2 as pb

from services.cli.doctor.smoke import run_smoke
from services.cli.errors import CliError
from tests.unit.cli.fakes import ANSWER, FakeOrchestrator, delta, finish, serving, serving_orchestrator


def ask(orchestrator: FakeOrchestrator) -> None:
    with serving_orchestrator(orchestrator) as address:
        run_smoke("What is 2 + 2?", address=address, max_new_tokens=16, timeout_s=1.0)


def answer_by(rule: str, **parameters: float) -> tuple[pb.GenerateResponse, ...]:
    end = finish(2)
    end.finish.usage.used_rule.rule.CopyFrom(pb.RoutingRule(name=rule, parameters=parameters))
    return delta("four", pb.TOKEN_SOURCE_SLM), delta(".", pb.TOKEN_SOURCE_SLM), end


def test_smoke_answer_of_both_models_passes_and_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    orchestrator = FakeOrchestrator()
    ask(orchestrator)
    assert capsys.readouterr().out.startswith("3 tokens in 4 messages: 2 by the SLM, 1 by the LLM, ")
    assert [request.max_new_tokens for request in orchestrator.requests] == [16]


@pytest.mark.parametrize("source", [pb.TOKEN_SOURCE_SLM, pb.TOKEN_SOURCE_LLM])
def test_smoke_answer_of_one_model_fails(source: pb.TokenSource.ValueType) -> None:
    answer = (delta("four", source), delta(".", source), finish(2))
    with pytest.raises(CliError, match="not routed: 2 tokens in 3 messages"):
        ask(FakeOrchestrator(answer=answer))


def test_smoke_answer_of_one_model_passes_where_the_rule_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    ask(FakeOrchestrator(answer=answer_by("slm")))
    assert "2 by the SLM, 0 by the LLM, rule slm, " in capsys.readouterr().out
    with pytest.raises(CliError, match="0 by the LLM, rule entropy:threshold=9; doesn't the rule"):
        ask(FakeOrchestrator(answer=answer_by("entropy", threshold=9)))


def test_smoke_answer_in_one_piece_fails() -> None:
    whole = pb.GenerateResponse()
    for part in ANSWER:
        whole.MergeFrom(part)
    with pytest.raises(CliError, match="not streamed: 3 tokens in 1 messages"):
        ask(FakeOrchestrator(answer=(whole,)))


def test_smoke_service_that_does_not_serve_fails_after_the_timeout() -> None:
    with (
        serving(lambda server: None, healthy=False) as address,
        pytest.raises(CliError, match=f"orchestrator {address}: NOT_SERVING after 0 s"),
    ):
        run_smoke("What is 2 + 2?", address=address, max_new_tokens=16, timeout_s=0.0)
