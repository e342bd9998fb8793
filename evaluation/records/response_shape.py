"""The shape of a response: how long its thinking is, and where in it thoughts start."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from evaluation.graders.grade import THINK_END

# At the beginning of a line or after a sentence.
_THOUGHT_START = re.compile(
    r"(?:(?<![^\n])|(?<=[.!?] ))(?:Wait|But wait|Alternatively|Hmm|Let me (?:double-)?check)\b"
)


@dataclass(frozen=True)
class ResponseShape:
    """Where the parts of a response are.

    Attributes:
        think_len: Tokens up to and with the end of thinking; None where the response never ends it.
        thought_starts: Positions in the thinking at which a thought starts, 0 included.
    """

    think_len: int | None
    thought_starts: list[int]


def shape_of(token_texts: Sequence[str]) -> ResponseShape:
    """Finds the thinking and its thoughts.

    Args:
        token_texts: The text that each token of the response adds; all of them together are the response.

    Source: arXiv:2505.21600 §5.5 (thoughts are told by words such as "Wait" and "Alternatively"); deviation: none.
    """
    text = "".join(token_texts)
    ends = list(accumulate(map(len, token_texts)))
    end = text.find(THINK_END)
    think_len = None if end < 0 else bisect.bisect_left(ends, end + len(THINK_END)) + 1
    thinking = text if end < 0 else text[:end]
    # The token that holds a character is the first one that ends after it.
    starts = {0, *(bisect.bisect_right(ends, match.start()) for match in _THOUGHT_START.finditer(thinking))}
    return ResponseShape(think_len, sorted(starts))
