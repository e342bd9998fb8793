import threading
import time
from io import StringIO

import pytest
from rich.console import Console

from services.common import progress
from services.common.progress import progress_bar, track


def test_track_passes_items_through_and_counts_them_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(["a", "b"], "reading")) == ["a", "b"]
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.split()[0] == "reading"
    assert "2/2" in shown.err


def test_track_of_items_without_a_length_takes_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), "reading", 4)) == ["a", "b", "c"]
    assert "3/4" in capsys.readouterr().err


def test_progress_bar_shows_a_callers_columns_behind_the_count() -> None:
    console = Console(file=StringIO(), width=100)
    with progress_bar("{task.fields[told]}", console=console) as bar:
        bar.update(bar.add_task("training", total=8, told="loss 0.5"), completed=3)
    assert isinstance(console.file, StringIO)
    words = console.file.getvalue().split()
    assert words[0] == "training"
    assert words[2:5] == ["3/8", "loss", "0.5"]


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def wait_for_lines(console: Console, number: int) -> list[str]:
    deadline = time.monotonic() + 60
    while len(lines_of(console)) < number:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return lines_of(console)


def test_bar_without_a_terminal_says_from_time_to_time_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.02)
    console = Console(file=StringIO(), width=20)
    with progress_bar("shards  {task.fields[told]}", console=console) as bar:
        bar.add_task("responses", total=2, completed=2, told="")
        task = bar.add_task("prefill", total=16, told="1,234 tokens [not markup]")
        bar.advance(task, 3)
        # The first two may be from before the tasks were there.
        told = wait_for_lines(console, 4)[2:4]
        for line in told:
            assert line.startswith("prefill  3/16 shards  1,234 tokens [not markup] 0:00:0")
            assert "so far" in line
    num_lines = len(lines_of(console))
    time.sleep(0.1)
    assert len(lines_of(console)) == num_lines


def test_bar_without_a_terminal_speaks_while_nothing_moves_and_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.02)
    console = Console(file=StringIO())
    with progress_bar(console=console) as bar:
        bar.add_task("reading", total=None)
        assert wait_for_lines(console, 3)[2].startswith("reading 0/? 0:00:0")


def test_bar_on_a_terminal_moves_and_writes_no_lines_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    console = Console(file=StringIO(), force_terminal=True, width=100)
    with progress_bar(console=console) as bar:
        bar.add_task("prefill", total=16)
        time.sleep(0.2)
    assert "so far" not in "\n".join(lines_of(console))


def test_bar_of_a_short_command_is_one_line_at_the_end() -> None:
    console = Console(file=StringIO(), width=100)
    with progress_bar(console=console) as bar:
        bar.add_task("prefill", total=16)
    assert len([line for line in lines_of(console) if line.strip()]) == 1


def test_bar_that_has_stopped_leaves_no_thread() -> None:
    bar = progress_bar(console=Console(file=StringIO()))
    for _ in range(2):
        bar.start()
        bar.stop()
        bar.stop()
    for thread in threading.enumerate():
        if thread.name == "progress":
            thread.join(timeout=60)
            assert not thread.is_alive()


@pytest.mark.parametrize("width", [40, 80])
def test_progress_bar_of_any_width_shows_the_count_and_the_callers_columns(width: int) -> None:
    console = Console(file=StringIO(), width=width)
    with progress_bar("{task.fields[told]}", console=console) as bar:
        bar.update(bar.add_task("reference, r2r", total=800, told="95.3% correct"), completed=3)
    assert isinstance(console.file, StringIO)
    assert "3/800 95.3% correct" in console.file.getvalue()
