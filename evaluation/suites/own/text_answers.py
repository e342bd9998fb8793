r"""Grades answers that are texts: by equality, and by a regular expression.

Both read the reply, not the thinking before it.
"""

from __future__ import annotations

import unicodedata

import regex

from evaluation.graders.boxed import boxes
from evaluation.graders.grade import Grade, parts

MATCH_TIMEOUT_S = 5.0
"""Seconds that a pattern may take: some take for ever on some texts."""
_SHOWN_LEN = 200


def grade_exact(response: str, answer: str) -> Grade:
    """Right if the reply, its last line or its last box is the answer, space around it aside.

    Args:
        response: All of it.
        answer: In the normal form NFC.
    """
    reply = unicodedata.normalize("NFC", parts(response)[1]).strip()
    if not reply:
        return Grade(correct=False, extracted=None, reason="says nothing")
    boxed = [box.content for box in boxes(reply)]
    read = boxed[-1] if boxed else reply.splitlines()[-1].strip()
    return Grade(answer.strip() in (reply, read), read[:_SHOWN_LEN], f"{answer[:_SHOWN_LEN]!r} is right")


def grade_pattern(response: str, pattern: str, timeout_s: float = MATCH_TIMEOUT_S) -> Grade:
    """Right if the pattern matches somewhere in the reply.

    Args:
        response: All of it.
        pattern: A regular expression that compiles.
        timeout_s: Seconds that it may take.
    """
    try:
        # `concurrent` lets other threads go on meanwhile.
        match = regex.search(pattern, parts(response)[1], timeout=timeout_s, concurrent=True)
    except TimeoutError:
        return Grade(correct=False, extracted=None, reason=f"{pattern!r} took longer than {timeout_s:g} s")
    if match is None:
        return Grade(correct=False, extracted=None, reason=f"{pattern!r} matches nothing")
    return Grade(correct=True, extracted=match.group()[:_SHOWN_LEN], reason=f"{pattern!r} matches")
