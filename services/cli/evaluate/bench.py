"""`trivium bench`: measures the reference pair against the in-process loop.

Owns the start of the pair and the printing; what is measured, and how, is `evaluation.speed.bench`'s.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from rich.console import Console

from evaluation.speed.bench import as_json, measure, table
from services.cli.console import out
from services.cli.pair.local_pair import LocalOptions
from services.cli.pair.up import chosen_pair, started_pair


def run_bench(*, repetitions: int, depth: int, json_path: Path | None, start_timeout_s: float) -> None:
    """Starts the reference pair, measures it, stops it.

    Args:
        repetitions: Turns of every setting.
        depth: Run-ahead depth that is compared with depth 0.
        json_path: File for all values of all repetitions; None writes none.
        start_timeout_s: Seconds until the pair has to serve.

    Raises:
        CliError: The pair didn't start, or a service ended meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="trivium-bench-") as directory:
        options = LocalOptions(
            pair=chosen_pair("reference", None, None), state_dir=Path(directory), start_timeout_s=start_timeout_s
        )
        with started_pair(options) as running:
            settings = measure(running.address, repetitions=repetitions, depth=depth)
            running.check_unbroken()
    # Wider than many terminals: cut columns would hide the figures.
    Console(width=max(out.width, 120)).print(table(settings))
    if json_path:
        json_path.write_text(json.dumps(as_json(settings), indent=1) + "\n")
