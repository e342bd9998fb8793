r"""Reads `\boxed{...}` out of LaTeX."""

import re
from dataclasses import dataclass

# An escaped brace is a character of the text.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"[\w.,-]+")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\b\s*")


@dataclass(frozen=True)
class Box:
    r"""A box of a text.

    Attributes:
        start: Where its command begins.
        end: Just past it.
        content: What stands between the braces, or the one token of `\boxed 7`.
    """

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    """All boxes, in order; an unclosed box is none, and the outer one of two nested boxes counts.

    Args:
        text: A response.
    """
    ends = _closing_braces(text)
    found: list[Box] = []
    position = 0
    while (match := _BOX.search(text, position)) is not None:
        position = match.end()
        if text[position : position + 1] == "{":
            end = ends.get(position)
            if end is not None:
                found.append(Box(match.start(), end + 1, text[position + 1 : end].strip()))
                position = end
        elif bare := _BARE.match(text, position):
            content = bare.group().rstrip(".,")
            found.append(Box(match.start(), position + len(content), content))
    return found


def _closing_braces(text: str) -> dict[int, int]:
    """Position of the closing brace of each brace that is closed."""
    ends: dict[int, int] = {}
    open_braces: list[int] = []
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            open_braces.append(match.start())
        elif match.group() == "}" and open_braces:
            ends[open_braces.pop()] = match.start()
    return ends
