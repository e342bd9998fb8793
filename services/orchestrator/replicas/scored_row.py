"""A draft in one row of a step batch, on its way to what scores it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from services.common.errors import TriviumError
from services.orchestrator.routing.core import RoutingCore
from services.orchestrator.sequences.sequence import RunningSequence
from services.rules.rule import Rule


class DraftRow(Protocol):
    """What has a draft scored."""

    @property
    def rule(self) -> Rule:
        """Whose evidence it is."""

    @property
    def router_weights(self) -> str:
        """The router's weights, where the rule asks it."""

    def tell(self, score: float) -> None:
        """Here is its score."""

    def lost(self) -> int | None:
        """Its score won't come. Returns the id of the sequence that has to draft again, if one has."""

    def failed(self) -> None:
        """The rule failed to score it."""


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A draft that its sequence's own rule is to decide about."""

    sequence: RunningSequence
    position: int
    epoch: int

    @property
    def rule(self) -> Rule:
        """What decides about it."""
        return self.sequence.task.rule.rule

    @property
    def router_weights(self) -> str:
        """Those that the sequence began with."""
        return self.sequence.task.rule.router_weights

    def tell(self, score: float) -> None:
        """Tells the sequence its score."""
        self.sequence.react(RoutingCore.scored, self.position, score, self.epoch)

    def lost(self) -> int | None:
        """The sequence has to draft again."""
        return self.sequence.sequence_id

    def failed(self) -> None:
        """Costs the sequence."""
        self.sequence.fail(TriviumError(f"rule: {self.rule.name} failed"))
