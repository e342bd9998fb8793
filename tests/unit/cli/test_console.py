import io

import pytest
from rich.console import Console

from services.cli import console


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(
        console,
        "out",
        Console(file=written, force_terminal=True, color_system="truecolor", highlight=False, width=20),
    )
    return written


def test_write_answer_terminal_colours_the_llm(terminal: io.StringIO) -> None:
    console.write_answer("plain", console.SLM_STYLE)
    console.write_answer("bright", console.LLM_STYLE)
    assert terminal.getvalue() == "plain\x1b[1;95mbright\x1b[0m"


def test_write_answer_terminal_control_characters_lose_their_power(terminal: io.StringIO) -> None:
    console.write_answer("a\x1b]0;title\x07b\x9b2Jc\n")
    assert terminal.getvalue() == "a\ufffd]0;title\ufffdb\ufffd2Jc\n"


def test_write_answer_terminal_long_text_is_not_broken(terminal: io.StringIO) -> None:
    console.write_answer("word " * 10)
    assert terminal.getvalue() == "word " * 10


def test_write_answer_pipe_gets_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.write_answer("a\x1b[1mb", console.LLM_STYLE)
    assert capsys.readouterr().out == "a\x1b[1mb"
