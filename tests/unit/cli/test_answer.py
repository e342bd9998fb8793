import os
from pathlib import Path

from services.cli.answer import find_address
from services.cli.state import LocalProcess, RunningPair, save_state


def test_find_address_given_one_wins(tmp_path: Path) -> None:
    assert find_address("other:1", tmp_path) == "other:1"


def test_find_address_running_pair_is_found(tmp_path: Path) -> None:
    owner = LocalProcess.of(os.getpid())
    save_state(tmp_path, RunningPair(pair="reference", owner=owner, addresses={"orchestrator": "127.0.0.1:7"}))
    assert find_address(None, tmp_path) == "127.0.0.1:7"


def test_find_address_nothing_runs_is_the_default(tmp_path: Path) -> None:
    assert find_address(None, tmp_path) == "127.0.0.1:50050"
