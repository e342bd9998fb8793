import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.live.journal import Journal, JournalError

RUN = {"suite": "aime", "threshold": 0.5}


def written(path: Path, *numbers: int) -> bytes:
    with Journal(path, RUN, "id") as journal:
        for number in numbers:
            journal.append({"id": str(number), "text": "π\n" * number})
    return path.read_bytes()


def test_journal_opened_again_has_its_rows_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a.jsonl"
    written(path, 1, 2)
    with Journal(path, RUN, "id") as journal:
        assert list(journal.rows) == ["1", "2"]
        assert journal.rows["2"]["text"] == "π\nπ\n"
        journal.append({"id": "3"})
    with Journal(path, RUN, "id") as journal:
        assert list(journal.rows) == ["1", "2", "3"]


@given(cut=st.integers(min_value=0))
def test_journal_cut_anywhere_keeps_every_whole_row(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    whole = written(path, 1, 2, 3)
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept)
    with Journal(path, RUN, "id") as journal:
        assert len(journal.rows) == max(kept.count(b"\n") - 1, 0)
        journal.append({"id": "4"})
    with Journal(path, RUN, "id") as journal:
        assert list(journal.rows)[-1] == "4"


@pytest.mark.parametrize("run", [{**RUN, "threshold": 0.25}, {"suite": "aime"}, {**RUN, "seed": 1}])
def test_journal_of_another_run_is_refused_and_left_as_it_is(tmp_path: Path, run: dict[str, object]) -> None:
    before = written(tmp_path / "a.jsonl", 1)
    with pytest.raises(JournalError, match=r"a.jsonl: holds a run with (threshold|seed) "):
        Journal(tmp_path / "a.jsonl", run, "id")
    assert (tmp_path / "a.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: expected an object, found list"),
        ('{"text": ""}', "line 2: field 'id' is missing"),
    ],
)
def test_journal_damaged_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(written(path) + line.encode() + b"\n")
    with pytest.raises(JournalError, match=message):
        Journal(path, RUN, "id")


def test_journal_in_use_is_refused_until_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    script = (
        "import sys, time, pathlib\nfrom evaluation.live.journal import Journal\n"
        f"journal = Journal(pathlib.Path({str(path)!r}), {RUN!r}, 'id')\n"
        "journal.append({'id': '1'})\ntime.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() or path.read_bytes().count(b"\n") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(JournalError, match="another process is at this run"):
            Journal(path, RUN, "id")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with Journal(path, RUN, "id") as journal:
        assert list(journal.rows) == ["1"]
