from io import StringIO

import pytest
from rich.console import Console

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
