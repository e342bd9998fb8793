"""Decides when drafts are sent: at once, or together with the next ones.

A small model on a fast machine drafts more often than a message is worth. Drafts whose sequence may go on are held
for a moment, so that a few steps share a message on their way to the router; a draft that its sequence waits on is
never held. Owns that decision; what the messages look like is the servicer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from services.engines.base import DraftStep


@dataclass(slots=True)
class _Window:
    draft_until: int
    stop_token_ids: frozenset[int]


@dataclass(slots=True)
class DraftPacer:
    """Knows which drafts are the last of their window.

    Args:
        hold_s: Longest that drafts are held, in seconds.
    """

    hold_s: float
    _windows: dict[int, _Window] = field(default_factory=dict)

    def opened(self, sequence_id: int, draft_until: int, stop_token_ids: frozenset[int]) -> None:
        """A sequence drafts positions below `draft_until`, and pauses after a stop token."""
        self._windows[sequence_id] = _Window(draft_until, stop_token_ids)

    def moved(self, sequence_id: int, draft_until: int) -> None:
        """The window of an open sequence ends elsewhere now."""
        self._windows[sequence_id].draft_until = draft_until

    def closed(self, sequence_id: int) -> None:
        """A sequence is over. Unknown ones are ignored."""
        self._windows.pop(sequence_id, None)

    def may_hold(self, step: DraftStep, step_s: float) -> bool:
        """Whether a step's drafts may wait for the next step.

        Args:
            step: The step.
            step_s: How long it took. Where a step takes longer than drafts may be held, waiting gains nothing.
        """
        if step_s > self.hold_s or step.opened or step.refusals or step.num_waiting_sequences:
            return False
        rows = zip(step.sequence_ids, step.positions, step.token_ids, strict=True)
        return not any(self._pauses(*row) for row in rows)

    def _pauses(self, sequence_id: int, position: int, token_id: int) -> bool:
        window = self._windows.get(sequence_id)
        return window is not None and (position + 1 >= window.draft_until or token_id in window.stop_token_ids)


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
    )
