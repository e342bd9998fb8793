"""Finds, among all drafts of a sequence, those that the rule decided about in the end."""

from __future__ import annotations

from typing import Generic, TypeVar

DraftT = TypeVar("DraftT")


class FinalDrafts(Generic[DraftT]):
    """What is known of the drafts whose positions aren't final yet.

    A position may be drafted again after another prefix: the last draft is the one that was decided about.

    Args:
        first_position: The first position without a final token: the prompt's length.
    """

    def __init__(self, first_position: int) -> None:
        self.next_position = first_position
        """The first position without a final token."""
        self._last: dict[int, DraftT] = {}

    def drafted(self, position: int, draft: DraftT) -> None:
        """A position was drafted."""
        self._last[position] = draft

    def accepted(self) -> DraftT | None:
        """The next position is final. Returns its draft; None if it isn't known."""
        position, self.next_position = self.next_position, self.next_position + 1
        return self._last.pop(position, None)

    def forget(self, position: int) -> None:
        """A position was drafted, and nothing is to be known of that draft."""
        self._last.pop(position, None)
