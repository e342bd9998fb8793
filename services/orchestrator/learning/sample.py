"""A sample of what the models say of live traffic, for the training of the next router.

Owns which drafts it keeps: single ones, drawn by chance, out of answers that are decoded greedily. What the LLM would
have written there is known where it was asked; elsewhere it is asked along with its next question about the sequence,
which costs it no pass of its own. What it says of such a draft is kept and has no part in the answer.

Kept are the SLM's features and both models' tokens, and no text.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from trivium.v1 import common_pb2, slm_pb2

from services.common.errors import PeerUnavailable
from services.orchestrator.learning.final_drafts import FinalDrafts
from services.orchestrator.requests.task import GenerationTask
from services.orchestrator.routing.actions import AcceptedToken, AskLlm, Source

_MAX_UNREAD = 32
"""Drafts of a sequence that wait for the LLM's next question, at most: it is asked about all of them at once."""
MOST = 0.1
"""Largest share of the drafts that may be kept: with more, an answer could be put together again."""


@dataclass(frozen=True, slots=True)
class SampledDraft:
    """A draft with its features.

    Args:
        query_id: Chance; the same for all drafts of an answer.
        position: Of the draft in its answer, from 0.
        token_id: The SLM's token.
        hidden_state: f16 [hidden].
        top_logits: f16 [100].
    """

    query_id: int
    position: int
    token_id: int
    hidden_state: NDArray[np.float16]
    top_logits: NDArray[np.float16]


Keep = Callable[[SampledDraft, int], None]
"""Keeps a draft beside the LLM's token."""


class Sampler:
    """Draws the sample.

    Args:
        share: Of the drafts, in [0, `MOST`].
        keep: Called with each draft of the sample, and the LLM's token there.
        draw: Where chance comes from.
    """

    def __init__(self, share: float, keep: Keep, draw: random.Random) -> None:
        self._share = share
        self._keep = keep
        self._draw = draw

    def begin(self, task: GenerationTask) -> SequenceSample | None:
        """The sample of a new sequence; None where none is to be had."""
        is_greedy = task.sampling.temperature == 0
        if not (is_greedy and task.rule.may_ask_llm):
            return None
        return SequenceSample(len(task.prompt_token_ids), self._share, self._keep, self._draw)


@dataclass(slots=True)
class SequenceSample:
    """The sample of one sequence.

    Args:
        prompt_len: Tokens of its prompt.
        share: Of its drafts.
        keep: As of `Sampler`.
        draw: Where chance comes from.
    """

    prompt_len: int
    share: float
    keep: Keep
    draw: random.Random
    _query_id: int = field(default_factory=lambda: secrets.randbits(63))
    _drafts: FinalDrafts[SampledDraft] = field(init=False)
    _unread: dict[int, SampledDraft] = field(default_factory=dict)
    """Drafts that stood without the LLM, by position in the sequence."""
    _asked: dict[int, tuple[tuple[int, ...], frozenset[int]]] = field(default_factory=dict)
    """By pass: all positions of the question, and those of them that are the sample's alone."""

    def __post_init__(self) -> None:
        self._drafts = FinalDrafts(self.prompt_len)

    def drafted(self, position: int, token_id: int, response: slm_pb2.DraftResponse, row: int) -> None:
        """There is a draft, in a row of a step batch.

        Raises:
            PeerUnavailable: The SLM's features can't be read.
        """
        # The one that was drawn there before, if any, is of another prefix.
        self._drafts.forget(position)
        if self.draw.random() >= self.share:
            return
        hidden_state, top_logits = _row(response.hidden_states, row), _row(response.top_logits, row)
        index = position - self.prompt_len
        self._drafts.drafted(position, SampledDraft(self._query_id, index, token_id, hidden_state, top_logits))

    def accepted(self, tokens: Sequence[AcceptedToken]) -> None:
        """These tokens are final; they follow those before."""
        for token in tokens:
            position, draft = self._drafts.next_position, self._drafts.accepted()
            if draft is None:
                continue
            match token.source:
                case Source.LLM | Source.SLM_CONFIRMED:
                    self.keep(draft, token.token_id)
                case Source.SLM:
                    if len(self._unread) == _MAX_UNREAD:
                        del self._unread[self.draw.choice(list(self._unread))]
                    self._unread[position] = draft
                case Source.SLM_FALLBACK:
                    pass

    def question(self, action: AskLlm) -> tuple[int, ...]:
        """The positions to ask the LLM about: the core's, and those of the sample that it reads over."""
        end = action.base_len + len(action.token_ids)
        asked = frozenset(action.query_positions)
        mine = frozenset(position for position in self._unread if action.base_len < position <= end) - asked
        positions = tuple(sorted(mine | asked))
        # One pass at a time is open: answers to those before won't count.
        self._asked = {action.pass_id: (positions, mine)}
        # What the LLM has read over before it can't be asked about any more.
        self._unread = {position: draft for position, draft in self._unread.items() if position > action.base_len}
        return positions

    def answer(self, pass_id: int, token_ids: Sequence[int]) -> Sequence[int]:
        """Takes what is the sample's out of an answer. Returns what is the core's.

        Raises:
            PeerUnavailable: Something else was answered than what was asked.
        """
        positions, mine = self._asked.pop(pass_id, ((), frozenset[int]()))
        if not mine:
            return token_ids
        if len(token_ids) != len(positions):
            raise PeerUnavailable(f"llm: {len(token_ids)} answers to {len(positions)} questions")
        for position, token_id in zip(positions, token_ids, strict=True):
            if position in mine and (draft := self._unread.pop(position, None)):
                self.keep(draft, token_id)
        return [token_id for position, token_id in zip(positions, token_ids, strict=True) if position not in mine]


def _row(tensor: common_pb2.Tensor, row: int) -> NDArray[np.float16]:
    """One row; what isn't finite in it stays so."""
    try:
        values = np.frombuffer(tensor.data, dtype="<f4").reshape(tuple(tensor.shape))
    except ValueError as error:
        raise PeerUnavailable(f"slm: features of a step can't be read: {error}") from error
    with np.errstate(over="ignore"):
        # Wide ranges overflow, and what isn't finite isn't written.
        kept: NDArray[np.float16] = values[row].astype(np.float16)
    return kept
