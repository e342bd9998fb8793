"""What labelling cost, in the shape of the paper's Table 6.

Owns the notes that stages leave beside their shards. They are not in the shards, because two runs that label alike
never take equally long.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from labeler_jobs.shards.store import ShardError, ShardName, ShardStore

COST_FILE = "cost.json"
_HOUR_S = 3600.0


@dataclass(frozen=True)
class ShardCost:
    """What one shard of one stage took; the loading of models isn't counted.

    Attributes:
        seconds: Wall time.
        num_items: What the stage counts: tokens written, tokens prefilled, forks judged, or rows joined.
        device: torch device that did the work; empty where none did.
        num_devices: How many of them.
    """

    seconds: float
    num_items: int
    device: str
    num_devices: int


def write_cost(store: ShardStore, shard: ShardName, cost: ShardCost) -> None:
    """Leaves a note beside a shard.

    Raises:
        ShardError: It can't be written.
    """
    store.write_text(shard.cost_path, json.dumps(dataclasses.asdict(cost)) + "\n")


def read_costs(store: ShardStore, shards: Sequence[ShardName]) -> list[ShardCost]:
    """Reads the notes of shards.

    Raises:
        ShardError: A note is missing or damaged; the message names it and the field.
    """
    costs = []
    for shard in shards:
        try:
            costs.append(ShardCost(**json.loads(store.read_text(shard.cost_path))))
        except (json.JSONDecodeError, TypeError) as error:
            raise ShardError(f"{store.locate(shard.cost_path)}: not a cost note: {error}") from error
    return costs


def costs_to_json(costs: Mapping[str, Sequence[ShardCost]]) -> str:
    """Sums by folder of the stage, as a file's content."""
    return json.dumps({stage: _sum(notes) for stage, notes in costs.items()}, indent=1) + "\n"


def cost_table(costs: Mapping[str, Sequence[ShardCost]]) -> Table:
    """Sums by stage, in the shape of Table 6.

    Args:
        costs: Notes of all shards, by folder of the stage.

    Source: arXiv:2505.21600 Table 6. deviation: hours are summed over the shards, which may have run side by side.
    """
    table = Table(title="Cost of labelling", title_justify="left")
    table.add_column("stage")
    for column in ("hours", "devices", "device hours", "items", "items/s"):
        table.add_column(column, justify="right")
    sums = {stage: _sum(notes) for stage, notes in costs.items()}
    for stage, row in sums.items():
        table.add_row(
            stage,
            *(f"{row['hours']:.4f}", str(row["num_devices"]), f"{row['device_hours']:.4f}"),
            *(f"{row['num_items']:,.0f}", f"{row['items_per_s']:,.0f}"),
        )
    hours, device_hours = (sum(row[name] for row in sums.values()) for name in ("hours", "device_hours"))
    table.add_row("total", f"{hours:.4f}", "", f"{device_hours:.4f}", "", "", style="bold")
    return table


def _sum(notes: Sequence[ShardCost]) -> dict[str, float]:
    seconds, num_items = sum(note.seconds for note in notes), sum(note.num_items for note in notes)
    return {
        "seconds": seconds,
        "hours": seconds / _HOUR_S,
        "num_devices": max((note.num_devices for note in notes), default=0),
        "device_hours": sum(note.seconds * note.num_devices for note in notes) / _HOUR_S,
        "num_items": num_items,
        "items_per_s": num_items / seconds if seconds else 0.0,
    }
