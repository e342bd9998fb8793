"""What was seen of autoscaling: samples over time, and how they are stored."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.cluster.harness.scaling import PodCount


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment.

    Args:
        time_s: Since the beginning.
        phase: Name of the phase.
        streams: Streams on each path, "llm" (threshold 0) and "slm" (threshold above 1).
        demand: What the autoscaler of each component sees.
        pods: Of each component.
    """

    time_s: float
    phase: str
    streams: dict[str, int]
    demand: dict[str, float]
    pods: dict[str, PodCount]

    def __str__(self) -> str:
        """Tells it in a line."""
        parts = [
            f"{name}: demand {self.demand[name]:.1f}, {pods.ready} of {pods.wanted} pods ready"
            for name, pods in self.pods.items()
        ]
        return " · ".join([self.phase, *parts])


@dataclass(slots=True)
class Record:
    """What was seen.

    Args:
        per_replica: Demand that one replica of each component is meant for.
        samples: In order.
        num_streams: Streams that have ended.
        failures: What became of those that failed or wrote another text than their reference, and of phases in which
            nothing happened.
        failovers: Sequences that each component's pods handed over or lost.
    """

    per_replica: dict[str, float]
    samples: list[Sample] = field(default_factory=list)
    num_streams: int = 0
    failures: list[str] = field(default_factory=list)
    failovers: dict[str, float] = field(default_factory=dict)

    def during(self, phase: str) -> list[Sample]:
        """The samples of a phase."""
        return [sample for sample in self.samples if sample.phase == phase]

    def save(self, stem: Path, **head: object) -> None:
        """Writes `<stem>.json`, with `head` before it, and the samples alone as `<stem>.csv`."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(head | asdict(self), indent=1)
        stem.with_suffix(".json").write_text(f"{text}\n", encoding="utf-8")
        with stem.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            paths = list(self.per_replica)
            columns = [f"{path}_{what}" for path in paths for what in ("streams", "demand", "wanted", "ready")]
            writer.writerow(["time_s", "phase", *columns])
            for sample in self.samples:
                cells = [
                    cell
                    for path in paths
                    for cell in (
                        sample.streams[path],
                        round(sample.demand[path], 3),
                        sample.pods[path].wanted,
                        sample.pods[path].ready,
                    )
                ]
                writer.writerow([sample.time_s, sample.phase, *cells])
