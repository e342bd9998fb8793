import json
from pathlib import Path

import grpc
import pytest
from trivium.v1 import orchestrator_pb2 as pb

from services.cli.ask.generate import run_generate
from services.cli.ask.options import asked
from services.cli.errors import CliError
from services.client import Options
from tests.unit.cli.fakes import ANSWER, FakeOrchestrator, delta, finish, serving_orchestrator


def ask(
    orchestrator: FakeOrchestrator,
    state_dir: Path,
    options: Options | None = None,
    *,
    raw: bool = False,
    as_json: bool = False,
    timeout_s: float = 60.0,
) -> None:
    with serving_orchestrator(orchestrator) as address:
        run_generate(
            "What is 2 + 2?",
            options or Options(),
            address=address,
            state_dir=state_dir,
            raw=raw,
            as_json=as_json,
            start=False,
            timeout_s=timeout_s,
        )


def test_generate_answer_goes_to_stdout_and_the_summary_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(FakeOrchestrator(), tmp_path)
    printed = capsys.readouterr()
    assert printed.out == "So four.\n"
    assert "3 tokens, 1 (33.3%) by the LLM · average parameters 0.30M of 3.0M (10%;" in printed.err


def test_generate_prompt_is_one_user_message(tmp_path: Path) -> None:
    orchestrator = FakeOrchestrator()
    ask(orchestrator, tmp_path)
    [request] = orchestrator.requests
    assert request.chat == pb.ChatMessages(messages=[pb.ChatMessage(role="user", content="What is 2 + 2?")])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(target_llm_usage=0.1), {"target_llm_usage": 0.1}),
        (Options(target_llm_usage=0.0), {"target_llm_usage": 0.0}),
        (Options(target_avg_params_b=6.0), {"target_avg_params_b": 6.0}),
    ],
)
def test_generate_target_reaches_the_request(tmp_path: Path, options: Options, expected: dict[str, float]) -> None:
    orchestrator = FakeOrchestrator()
    ask(orchestrator, tmp_path, options)
    [request] = orchestrator.requests
    field = request.WhichOneof("routing")
    assert field is not None
    assert {field: getattr(request, field)} == pytest.approx(expected)


def test_threshold_beside_a_target_is_refused_naming_both_options() -> None:
    with pytest.raises(CliError, match="give --threshold or --target-llm-usage, not both"):
        asked(threshold=0.5, target_llm_usage=0.1)


def test_generate_raw_prompt_is_plain_text(tmp_path: Path) -> None:
    orchestrator = FakeOrchestrator()
    ask(orchestrator, tmp_path, raw=True)
    assert [request.text for request in orchestrator.requests] == ["What is 2 + 2?"]


def test_generate_json_names_the_writer_of_each_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(FakeOrchestrator(), tmp_path, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["text"] == "So four."
    assert printed["finish_reason"] == "stop"
    assert [token["source"] for token in printed["tokens"]] == ["slm", "llm", "slm"]
    assert printed["tokens"][1] == {"token_id": 9, "source": "llm", "divergence_probability": 0.25}
    assert printed["usage"]["num_llm_tokens"] == 1
    assert printed["usage"]["num_llm_tokens_reused"] == 0


def test_generate_refused_request_is_one_line_with_code_and_message(tmp_path: Path) -> None:
    refusing = FakeOrchestrator((), grpc.StatusCode.INVALID_ARGUMENT, "max_new_tokens: 0 is below 1")
    with pytest.raises(CliError, match=r"INVALID_ARGUMENT: max_new_tokens: 0 is below 1$"):
        ask(refusing, tmp_path)


def test_generate_failure_in_the_middle_keeps_what_had_arrived(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = FakeOrchestrator(ANSWER[:2], grpc.StatusCode.DATA_LOSS, "no llm replica")
    with pytest.raises(CliError, match="DATA_LOSS: no llm replica"):
        ask(failing, tmp_path)
    assert capsys.readouterr().out == "So four\n"


def test_generate_orchestrator_away_for_a_moment_is_told_and_the_answer_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator = FakeOrchestrator(num_losses=3)
    ask(orchestrator, tmp_path)
    printed = capsys.readouterr()
    assert printed.out == "So four.\n"
    assert printed.err.count("UNAVAILABLE: away; reconnecting") == 1
    assert [request.resume_from for request in orchestrator.requests] == [0, 1, 1, 1]


def test_generate_stream_without_last_message_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="ended without its last message"):
        ask(FakeOrchestrator(ANSWER[:2]), tmp_path)


def test_generate_answer_with_a_gap_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="2 of 3 tokens arrived"):
        ask(FakeOrchestrator((*ANSWER[:2], ANSWER[-1])), tmp_path)


def test_generate_nobody_listens_is_one_line_that_names_the_address(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"orchestrator 127\.0\.0\.1:1: UNAVAILABLE: .*trivium doctor"):
        run_generate(
            "Hi",
            Options(),
            address="127.0.0.1:1",
            state_dir=tmp_path,
            raw=False,
            as_json=False,
            start=False,
            timeout_s=60,
        )


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_generate_answer_that_takes_too_long_is_one_line_that_says_so(as_json: bool, tmp_path: Path) -> None:
    orchestrator = FakeOrchestrator(ANSWER[:2], hangs=True)
    message = r"orchestrator \S+: DEADLINE_EXCEEDED: the answer isn't complete after 0\.5 s .*trivium doctor"
    with pytest.raises(CliError, match=message):
        ask(orchestrator, tmp_path, as_json=as_json, timeout_s=0.5)


def test_generate_markup_in_an_answer_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = (delta("[red]x[/red] \\[", pb.TOKEN_SOURCE_SLM), finish(1))
    ask(FakeOrchestrator(odd), tmp_path)
    assert capsys.readouterr().out == "[red]x[/red] \\[\n"
