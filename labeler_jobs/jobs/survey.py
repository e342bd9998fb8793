"""What `trivium label plan` prints and `trivium label submit` reads: which shards of a run are missing.

Owns that text. Only a pod sees the volume that the shards are on, so it travels through the pod's log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labeler_jobs.shards.numbers import format_numbers, parse_numbers


class SurveyError(ValueError):
    """A text holds no survey."""


@dataclass(frozen=True)
class Survey:
    """The state of an output folder that fits the run.

    Attributes:
        missing: Numbers of the shards that are still to be made, by stage, in the stages' order.
        needs: The stages whose shards a stage reads, by stage.
    """

    missing: Mapping[str, Sequence[int]]
    needs: Mapping[str, Sequence[str]]

    def lacking(self, stages: Sequence[str]) -> tuple[str, str, list[int]] | None:
        """A stage that can't run because an earlier one didn't.

        Args:
            stages: What is to run, in this order.

        Returns:
            The stage, the one before it, and the shards that are missing there; None if all can run.
        """
        for place, stage in enumerate(stages):
            for needed in self.needs[stage]:
                shards = sorted(set(self.missing[needed]) & set(self.missing[stage]))
                if shards and needed not in stages[:place]:
                    return stage, needed, shards
        return None

    def to_json(self) -> str:
        """One line."""
        missing = {stage: format_numbers(shards) for stage, shards in self.missing.items()}
        return json.dumps({"missing": missing, "needs": {stage: list(names) for stage, names in self.needs.items()}})


def read_survey(log: str) -> Survey:
    """Finds the survey in what a pod wrote.

    Raises:
        SurveyError: There is none, or it is of another version of Trivium.
    """
    lines = [line for line in log.splitlines() if line.startswith('{"missing":')]
    if not lines:
        raise SurveyError("no line of it says which shards are missing")
    try:
        found = json.loads(lines[-1])
        return Survey(
            missing={stage: parse_numbers(shards) for stage, shards in found["missing"].items()},
            needs={stage: tuple(found["needs"][stage]) for stage in found["missing"]},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SurveyError(f"the line about missing shards can't be read: {error}") from error
