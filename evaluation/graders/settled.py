"""Which of several answers in one response counts; the same for letters and for mathematics.

In this order:

1. The reply after the thinking. If it gives no answer ("See above."), and doesn't say that it has none, the thinking.
2. What follows the last correction ("No wait, ...") that an answer follows; without one, all of it.
3. The last box there, since a box is what is asked for.
4. The last statement there ("the answer is ...").
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from evaluation.graders.grade import parts

AnswerT = TypeVar("AnswerT")

_CORRECTION = re.compile(
    r"""
    \b(?:wait|actually|correction|oops|sorry|scratch\ that|hold\ on|on\ second\ thou?ghts?|i\ mean|make\ that
        |i\ (?:made|see)\ (?:a|an|my)\ (?:\w+\ )?(?:mistake|error|slip)|my\ (?:mistake|bad|error)
        |that(?:'s|\ is|\ was)\ (?:wrong|not\ right|incorrect)|let\ me\ (?:correct|reconsider|redo|fix)
        |correcting\ (?:myself|that)|(?:un)?fortunately,?\ that)\b
    | \bno\b\s*[,:;\u2014\u2013-]
    | 不对 | 等等 | 等一下 | 更正 | 纠正 | 错了 | 其实 | 重新
    """,
    re.VERBOSE | re.IGNORECASE,
)
_GIVES_UP = re.compile(
    r"\b(?:do(?:es)? ?n[o']t (?:know|have)|do not know|can ?n[o']t|cannot|can't|unable|not sure|no idea|no answer"
    r"|give up|unclear|not possible|undetermined)\b|不知道|无法|不确定",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Found(Generic[AnswerT]):
    """An answer that a text gives.

    Attributes:
        start: Where in the text.
        boxed: Whether in a box; else in a statement.
        answer: What it says.
    """

    start: int
    boxed: bool
    answer: AnswerT

    @property
    def how(self) -> str:
        """Where it was found, in one word."""
        return "boxed" if self.boxed else "stated"


def settle(text: str, found: Sequence[Found[AnswerT]]) -> Found[AnswerT] | None:
    """The answer that counts of those that a text gives; None if there are none.

    Args:
        text: What `start` counts in.
        found: The answers, in any order.
    """
    if not found:
        return None
    in_order = sorted(found, key=lambda one: one.start)
    corrected = 0
    for match in _CORRECTION.finditer(text, 0, in_order[-1].start):
        corrected = match.start()
    kept = [one for one in in_order if one.start >= corrected]
    return ([one for one in kept if one.boxed] or kept)[-1]


def first_that_answers(response: str, read: Callable[[str], AnswerT | None]) -> AnswerT | None:
    """Reads the reply, and the thinking where the reply gives no answer and doesn't give up."""
    thinking, reply = parts(response)
    answer = read(reply)
    if answer is not None or not thinking or _GIVES_UP.search(reply):
        return answer
    return read(thinking)


def ends_in_correction(sentence: str) -> int:
    """Where in a sentence its last correction ends, 0 without one: in "24, no wait, 25" what follows counts."""
    end = 0
    for match in _CORRECTION.finditer(sentence):
        end = match.end()
    return end
