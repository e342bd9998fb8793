import os
from pathlib import Path

from trivium.v1 import orchestrator_pb2 as pb

from services.cli.ask.answer import find_address, parts_by_writer
from services.cli.console import LLM_STYLE, SLM_STYLE
from services.cli.pair.state import LocalProcess, RunningPair, save_state


def test_find_address_given_one_wins(tmp_path: Path) -> None:
    assert find_address("other:1", tmp_path) == "other:1"


def test_find_address_running_pair_is_found(tmp_path: Path) -> None:
    owner = LocalProcess.of(os.getpid())
    save_state(tmp_path, RunningPair(pair="reference", owner=owner, addresses={"orchestrator": "127.0.0.1:7"}))
    assert find_address(None, tmp_path) == "127.0.0.1:7"


def test_find_address_nothing_runs_is_the_default(tmp_path: Path) -> None:
    assert find_address(None, tmp_path) == "127.0.0.1:50050"


def test_parts_by_writer_neighbours_of_one_writer_are_one_part() -> None:
    slm, llm = pb.TOKEN_SOURCE_SLM, pb.TOKEN_SOURCE_LLM
    response = pb.GenerateResponse(text="So 24 is é", sources=[slm, slm, llm, slm], text_lengths=[2, 3, 3, 2])
    parts = [("So 24", SLM_STYLE), (" is", LLM_STYLE), (" é", SLM_STYLE)]
    assert [part for part in parts_by_writer(response) if part[0]] == parts


def test_parts_by_writer_text_without_tokens_was_held_back() -> None:
    assert list(parts_by_writer(pb.GenerateResponse(text="end"))) == [("end", SLM_STYLE)]
