"""Where a sentence ends, for cutting the LLM's continuation of a differing token.

Simple, and exact on plain prose with code and numbers: a full stop inside a number does not end a sentence, nor does
one whose following character is not known yet.
"""

import re

_END = re.compile(r"\n|[.!?]+[\"')\]]*(?=\s)|[\u3002\uff01\uff1f]")


def sentence_end(text: str, start: int = 0) -> int | None:
    """Find the end of the sentence that `start` lies in.

    Args:
        text: Text so far; more may follow.
        start: Character to look from.

    Returns:
        The index just past the sentence's last character, or None while the sentence is still open. A newline
        belongs to the sentence that it ends. Blank space before the sentence's first word ends nothing.
    """
    for match in _END.finditer(text, start):
        if text[start : match.end()].strip():
            return match.end()
    return None


def sentence_start(text: str, position: int) -> int:
    """Find where the sentence that holds `position` begins.

    Args:
        text: Whole text.
        position: A character of the sentence, in [0, len(text)].

    Returns:
        The index of the sentence's first character (blank space included), 0 for the first sentence.
    """
    start = 0
    while (end := sentence_end(text, start)) is not None and end <= position:
        start = end
    return start
