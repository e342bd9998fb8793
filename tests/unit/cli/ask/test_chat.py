import io
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from services.cli.ask.chat import Conversation, run_chat
from services.cli.ask.client import OrchestratorClient
from services.cli.errors import CliError
from services.cli.figures import PairSize
from services.client import Options
from tests.unit.cli.fakes import FakeOrchestrator, serving_orchestrator

SIZE = PairSize(slm=98_000, llm=3_010_000)


@pytest.fixture
def orchestrator() -> FakeOrchestrator:
    return FakeOrchestrator()


@pytest.fixture
def client(orchestrator: FakeOrchestrator) -> Iterator[OrchestratorClient]:
    with serving_orchestrator(orchestrator) as address, OrchestratorClient(address) as client:
        yield client


def said(orchestrator: FakeOrchestrator) -> list[tuple[str, str]]:
    """Role and text of the conversation that was sent last."""
    return [(message.role, message.content) for message in orchestrator.requests[-1].chat.messages]


def test_conversation_next_turn_sends_everything_said_so_far(
    orchestrator: FakeOrchestrator, client: OrchestratorClient
) -> None:
    conversation = Conversation(client, Options(), "Be brief.", SIZE)
    conversation.ask("2 + 2?")
    conversation.ask("And 3 + 3?")
    assert said(orchestrator) == [
        ("system", "Be brief."),
        ("user", "2 + 2?"),
        ("assistant", "So four."),
        ("user", "And 3 + 3?"),
    ]


def test_conversation_reset_keeps_only_the_system_message(
    orchestrator: FakeOrchestrator, client: OrchestratorClient
) -> None:
    conversation = Conversation(client, Options(), "Be brief.", SIZE)
    conversation.ask("2 + 2?")
    conversation.reset()
    conversation.ask("3 + 3?")
    assert said(orchestrator) == [("system", "Be brief."), ("user", "3 + 3?")]


def test_conversation_failed_turn_is_told_and_leaves_no_trace(
    orchestrator: FakeOrchestrator, client: OrchestratorClient, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = Conversation(client, Options(), None, SIZE)
    orchestrator.status, orchestrator.details = grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests"
    orchestrator.answer = ()
    conversation.ask("2 + 2?")
    assert "RESOURCE_EXHAUSTED: too many requests" in capsys.readouterr().err
    assert conversation.messages == []


def test_chat_commands_from_stdin_are_carried_out(
    orchestrator: FakeOrchestrator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n2 + 2?\n/nonsense\n/reset\n3 + 3?\n/quit\nnever asked\n"))
    with serving_orchestrator(orchestrator) as address:
        run_chat(Options(), address=address, state_dir=tmp_path, system=None, timeout_s=60)
    assert [request.chat.messages[-1].content for request in orchestrator.requests] == ["2 + 2?", "3 + 3?"]
    assert len(orchestrator.requests[-1].chat.messages) == 1
    assert "/nonsense is unknown" in capsys.readouterr().err


def test_chat_nobody_listens_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="UNAVAILABLE"):
        run_chat(Options(), address="127.0.0.1:1", state_dir=tmp_path, system=None, timeout_s=60)


def test_conversation_that_fills_the_context_says_what_to_do_at_each_turn(
    orchestrator: FakeOrchestrator, client: OrchestratorClient, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = Conversation(client, Options(), "Be brief.", SIZE)
    orchestrator.status, orchestrator.details = grpc.StatusCode.OUT_OF_RANGE, "no room in the context of 8 tokens"
    answer, orchestrator.answer = orchestrator.answer, ()
    conversation.ask("much too long")
    assert "ask something shorter" in capsys.readouterr().err
    orchestrator.status, orchestrator.answer = grpc.StatusCode.OK, answer
    conversation.ask("2 + 2?")
    orchestrator.status, orchestrator.answer = grpc.StatusCode.OUT_OF_RANGE, ()
    for _ in range(2):
        capsys.readouterr()
        conversation.ask("3 + 3?")
        assert "/reset forgets it" in capsys.readouterr().err
