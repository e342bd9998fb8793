"""The terminal: answers go to stdout, everything about them to stderr.

Owns the two consoles, the colours, and making a model's text harmless to a terminal.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

SLM_STYLE = ""
LLM_STYLE = "bold bright_magenta"

_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def write_answer(text: str, style: str = SLM_STYLE) -> None:
    """Writes a part of an answer, if there is any, to stdout at once.

    On a terminal it is coloured, and control characters lose their power; anywhere else it is written as it is.
    """
    if not text:
        return
    if out.is_terminal:
        # What is printed when Ctrl-C comes may be printed once more with what follows it; what is written is not.
        with out.capture() as rendered:
            out.print(Text(text.translate(_CONTROLS), style=style), end="", soft_wrap=True)
        text = rendered.get()
    out.file.write(text)
    out.file.flush()


def end_answer() -> None:
    """Ends the line of an answer."""
    write_answer("\n")


def note(message: str, style: str = "dim") -> None:
    """Writes one line about what happens to stderr."""
    err.print(Text(message, style=style), soft_wrap=True)
