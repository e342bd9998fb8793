"""`trivium bench`: measures the reference pair against the in-process loop, or HTTP against gRPC.

Owns the start of the pair and the printing; what is measured, and how, is `evaluation.speed`'s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evaluation.speed import bench, front_door
from services.cli.console import out
from services.cli.pair.local_pair import LocalOptions, LocalPair
from services.cli.pair.service_process import ServiceProcess
from services.cli.pair.up import chosen_pair, started_pair
from services.common.files.json_file import write_json


def run_bench(*, repetitions: int, depth: int, json_path: Path | None, start_timeout_s: float) -> None:
    """Starts the reference pair, measures it against the in-process loop, stops it.

    Args:
        repetitions: Turns of every setting.
        depth: Run-ahead depth that is compared with depth 0.
        json_path: File for all values of all repetitions; None writes none.
        start_timeout_s: Seconds until the pair has to serve.

    Raises:
        CliError: The pair didn't start, or a service ended meanwhile.
    """
    with _reference_pair(start_timeout_s) as running:
        settings = bench.measure(running.address, repetitions=repetitions, depth=depth)
    _show(bench.table(settings), bench.as_json(settings), json_path)


def run_front_door_bench(*, repetitions: int, json_path: Path | None, start_timeout_s: float) -> None:
    """Starts the reference pair with a gateway, measures HTTP against gRPC, stops them.

    Args:
        repetitions: Turns of each row.
        json_path: File for all values of all repetitions; None writes none.
        start_timeout_s: Seconds until the pair has to serve.

    Raises:
        CliError: As `run_bench`.
    """
    with _reference_pair(start_timeout_s, http_port=0) as running:
        gateway = _gateway(running)
        subject = front_door.Subject(running.address, gateway.address or "", gateway.pid)
        rows = front_door.measure(subject, repetitions=repetitions)
    _show(front_door.table(rows), front_door.as_json(rows), json_path)


@contextmanager
def _reference_pair(start_timeout_s: float, http_port: int | None = None) -> Iterator[LocalPair]:
    with tempfile.TemporaryDirectory(prefix="trivium-bench-") as directory:
        options = LocalOptions(
            pair=chosen_pair("reference", None, None),
            state_dir=Path(directory),
            http_port=http_port,
            start_timeout_s=start_timeout_s,
        )
        with started_pair(options) as running:
            yield running
            running.check_unbroken()


def _gateway(pair: LocalPair) -> ServiceProcess:
    children = [supervised.child for supervised in pair.children]
    return next(child for child in children if isinstance(child, ServiceProcess) and child.name == "gateway")


def _show(table: Table, values: Sequence[dict[str, object]], json_path: Path | None) -> None:
    # Wider than many terminals: cut columns would hide the figures.
    Console(width=max(out.width, 120)).print(table)
    if json_path:
        write_json(json_path, values)
