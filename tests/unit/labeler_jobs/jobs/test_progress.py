from io import StringIO

from rich.console import Console

from labeler_jobs.jobs.progress import JobProgress


def shown(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_bars_end_where_the_job_did_and_count_what_was_there() -> None:
    console = Console(file=StringIO(), width=100)
    with JobProgress(console) as progress:
        progress.start("responses", 4, 4)
        progress.start("prefill", 4, 1)
        progress.update(3, 1, 0)
        progress.update(3, 0, 1)
    counts = [[word for word in line.split() if "/" in word] for line in shown(console).splitlines()]
    assert counts == [["4/4"], ["3/4"]]


def test_lines_and_logs_of_elsewhere_lose_their_power_over_the_terminal() -> None:
    console = Console(file=StringIO(), width=40)
    with JobProgress(console) as progress:
        progress.say("1 pod waits:\x1b[2J no [bold]markup[/] and no line is cut off at the width of the terminal")
        progress.show_log("shard 1", "first\r\x1b]0;title\x07\nsecond\n")
    text = shown(console)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "no [bold]markup[/] and no line is cut off at the width of the terminal\n" in text
    assert "shard 1\n" in text
    assert "  second" in text
