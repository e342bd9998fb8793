"""What the routing core asks for, and the values that its actions carry. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Source(Enum):
    """Who wrote a token."""

    SLM = 1
    LLM = 2
    SLM_FALLBACK = 3
    """The SLM at a routed position, since no LLM was left and the caller goes on without."""
    SLM_CONFIRMED = 4
    """The SLM, and the LLM was asked and would have written the same."""


class FinishReason(Enum):
    """Why a sequence ended."""

    STOP = 1
    LENGTH = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True)
class AcceptedToken:
    """A token that is final.

    Args:
        token_id: The token.
        source: Who wrote it.
        score: What the rule's evidence said of the SLM's draft at this position: the router's is a divergence
            probability, in [0, 1].
    """

    token_id: int
    source: Source
    score: float


@dataclass(frozen=True, slots=True)
class OpenSlm:
    """Start the SLM after `token_ids`; its drafts carry `epoch` and stay below position `draft_until`."""

    token_ids: tuple[int, ...]
    epoch: int
    draft_until: int


@dataclass(frozen=True, slots=True)
class RewindSlm:
    """Have the SLM keep `length` tokens, append `token_ids`, and draft on under `epoch`."""

    length: int
    token_ids: tuple[int, ...]
    epoch: int
    draft_until: int


@dataclass(frozen=True, slots=True)
class GrantSlm:
    """Let the SLM draft positions below `draft_until`."""

    draft_until: int


@dataclass(frozen=True, slots=True)
class AskLlm:
    """Have the LLM keep `base_len` tokens, process `token_ids`, and answer `query_positions` (ascending)."""

    pass_id: int
    base_len: int
    token_ids: tuple[int, ...]
    query_positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Emit:
    """These tokens are final; they follow what was emitted before.

    Args:
        tokens: The tokens.
        texts: The text that became final with each of them; empty where it is still held.
    """

    tokens: tuple[AcceptedToken, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The sequence has ended. No action follows.

    Args:
        reason: Why.
        text: What was still held of the text.
        stop: The stop string that ended it, if one did.
    """

    reason: FinishReason
    text: str = ""
    stop: str = ""


Action = OpenSlm | RewindSlm | GrantSlm | AskLlm | Emit | Finish


class TextReader(Protocol):
    """Turns the tokens of one completion into text, and finds its end in it."""

    def push(self, token_id: int) -> tuple[str, str | None]:
        """Takes the next token. Returns the text that became final, and the stop string that is complete, if any."""

    def finish(self) -> str:
        """Returns the text that was held back. Called at most once, after the last token."""


class NoText:
    """A `TextReader` for who wants token ids alone: no text, and no stop strings."""

    def push(self, token_id: int) -> tuple[str, str | None]:
        """Takes the next token."""
        return "", None

    def finish(self) -> str:
        """There is nothing."""
        return ""
