import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.errors import CliError
from services.cli.pair.state import LocalProcess, RunningPair, clear_state, load_state, running_pair, save_state


def test_load_state_gives_back_what_was_saved(tmp_path: Path) -> None:
    state = RunningPair(pair="reference", owner=LocalProcess.of(os.getpid()), addresses={"slm": "127.0.0.1:1"})
    save_state(tmp_path, state)
    assert load_state(tmp_path) == state


def test_load_state_no_file_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None


def test_load_state_foreign_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "running.json").write_text('{"pair": 3}')
    with pytest.raises(CliError, match="not a state file"):
        load_state(tmp_path)


def test_clear_state_absent_file_is_fine(tmp_path: Path) -> None:
    clear_state(tmp_path)
    assert load_state(tmp_path) is None


def test_running_pair_owner_gone_is_none(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    save_state(tmp_path, RunningPair(pair="reference", owner=LocalProcess.of(child.pid)))
    assert running_pair(tmp_path) is not None
    child.communicate(b"\n")
    assert running_pair(tmp_path) is None


def test_handle_pid_used_again_is_none() -> None:
    mine = LocalProcess.of(os.getpid())
    earlier = LocalProcess(pid=mine.pid, started_at=mine.started_at - 60)
    assert mine.handle() is not None
    assert earlier.handle() is None
