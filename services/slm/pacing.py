"""Knows how far each sequence may draft, and decides when drafts are sent: at once, or together with the next ones.

A small model on a fast machine drafts more often than a message is worth. Drafts whose sequence may go on are held
for a moment, so that a few steps share a message on their way to the router; a draft that its sequence waits on is
never held, nor is one that the LLM may well overrule: what is drafted after it would be in vain. Owns that decision,
and the counts of what is drafted; what the messages look like is the servicer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from services.engines.base import DraftStep

_SURE = 0.9
"""With the reference pair 82% of all drafts are as likely as this or more, but 1% of those that the LLM overrules."""


@dataclass(slots=True)
class _Window:
    next_position: int
    draft_until: int
    stop_token_ids: frozenset[int]
    at_stop_token: bool = False

    @property
    def is_open(self) -> bool:
        return not self.at_stop_token and self.next_position < self.draft_until


@dataclass(slots=True)
class DraftPacer:
    """Knows which drafts are the last of their window.

    Args:
        hold_s: Longest that drafts are held, in seconds.

    Attributes:
        num_drafting: Sequences that may draft on now. The others wait for their caller to decide about their drafts.
        num_drafts: Tokens drafted so far.
        num_drafts_rewound: Those of them that a rewind dropped.
    """

    hold_s: float
    num_drafting: int = 0
    num_drafts: int = 0
    num_drafts_rewound: int = 0
    _windows: dict[int, _Window] = field(default_factory=dict)

    def opened(self, sequence_id: int, prefix_len: int, draft_until: int, stop_token_ids: frozenset[int]) -> None:
        """A sequence drafts positions from `prefix_len` to below `draft_until`, and pauses after a stop token."""
        window = self._windows[sequence_id] = _Window(prefix_len, draft_until, stop_token_ids)
        self.num_drafting += window.is_open

    def granted(self, sequence_id: int, draft_until: int) -> None:
        """The window of an open sequence reaches farther now."""
        window = self._windows[sequence_id]
        was_open = window.is_open
        window.draft_until = max(window.draft_until, draft_until)
        self.num_drafting += window.is_open - was_open

    def rewound(self, sequence_id: int, kept_len: int, prefix_len: int, draft_until: int) -> None:
        """An open sequence keeps its first `kept_len` tokens; it has `prefix_len` now and drafts on after them."""
        window = self._windows[sequence_id]
        self.num_drafts_rewound += max(0, window.next_position - kept_len)
        was_open = window.is_open
        window.next_position, window.draft_until, window.at_stop_token = prefix_len, draft_until, False
        self.num_drafting += window.is_open - was_open

    def closed(self, sequence_id: int) -> None:
        """A sequence is over. Unknown ones are ignored."""
        window = self._windows.pop(sequence_id, None)
        if window is not None:
            self.num_drafting -= window.is_open

    def is_drafting(self, sequence_id: int) -> bool:
        """Whether a sequence may draft on."""
        window = self._windows.get(sequence_id)
        return window is not None and window.is_open

    def drafted(self, step: DraftStep, step_s: float) -> bool:
        """Takes in what a step drafted.

        Args:
            step: The step.
            step_s: How long it took. Where a step takes longer than drafts may be held, waiting gains nothing.

        Returns:
            Whether its drafts may wait for the next step.
        """
        may_hold = step_s <= self.hold_s and not (step.opened or step.refusals or step.num_waiting_sequences)
        may_hold = may_hold and _all_sure(step.top_logits)
        for sequence_id, position, token_id in zip(step.sequence_ids, step.positions, step.token_ids, strict=True):
            window = self._windows.get(sequence_id)
            if window is not None:
                was_open = window.is_open
                window.next_position = position + 1
                window.at_stop_token = token_id in window.stop_token_ids
                if not window.is_open:
                    self.num_drafting -= was_open
                    may_hold = False
        self.num_drafts += len(step.sequence_ids)
        return may_hold


def select_rows(step: DraftStep, rows: Sequence[int] | NDArray[np.intp]) -> DraftStep:
    """Some rows of a step; all that isn't a row stays."""
    return replace(
        step,
        sequence_ids=[step.sequence_ids[row] for row in rows],
        positions=[step.positions[row] for row in rows],
        epochs=[step.epochs[row] for row in rows],
        token_ids=[step.token_ids[row] for row in rows],
        hidden_states=step.hidden_states[rows],
        top_logits=step.top_logits[rows],
    )


def join_steps(steps: Sequence[DraftStep]) -> DraftStep:
    """Joins steps, at least one, into one: rows of a sequence stay in order."""
    if len(steps) == 1:
        return steps[0]
    return DraftStep(
        sequence_ids=[sequence_id for step in steps for sequence_id in step.sequence_ids],
        positions=[position for step in steps for position in step.positions],
        epochs=[epoch for step in steps for epoch in step.epochs],
        token_ids=[token_id for step in steps for token_id in step.token_ids],
        hidden_states=np.concatenate([step.hidden_states for step in steps]),
        top_logits=np.concatenate([step.top_logits for step in steps]),
        opened=[opened for step in steps for opened in step.opened],
        refusals=[refusal for step in steps for refusal in step.refusals],
        num_waiting_sequences=steps[-1].num_waiting_sequences,
        num_sequences_without_room=steps[-1].num_sequences_without_room,
    )


def _all_sure(top_logits: NDArray[np.float32]) -> bool:
    """Whether the model was sure of the token after each of the rows."""
    share_of_largest = 1 / np.exp(top_logits - top_logits[:, :1]).sum(axis=1)
    return bool((share_of_largest >= _SURE).all())
