"""`trivium up`: runs a pair until Ctrl-C or SIGTERM, and shows how its services are.

Owns what is shown, on a terminal a table that is kept up to date, anywhere else plain lines.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live

from services.cli.console import err, out
from services.cli.errors import CliError
from services.cli.pair.launch import with_choices
from services.cli.pair.local_pair import LocalOptions, LocalPair
from services.cli.pair.status_table import status_table
from services.cli.pairs import find_pair
from services.common.pair import Pair, PairError, load_pair

_REFRESH_S = 1.0


def chosen_pair(name_or_file: str, engine: str | None, router_checkpoint: str | None) -> Pair:
    """Loads a pair and applies what the command line chooses over it.

    Raises:
        CliError: There is no such pair, its file is wrong, or it has no router.
    """
    try:
        pair = load_pair(find_pair(name_or_file))
    except PairError as error:
        raise CliError(str(error)) from error
    return with_choices(pair, engine=engine, router_checkpoint=router_checkpoint)


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets SIGTERM and Ctrl-C end this command by KeyboardInterrupt, so that children are stopped.

    Ctrl-C does so by itself, except where whoever started the command had it ignored, as a shell's `&` does.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


@contextmanager
def started_pair(options: LocalOptions) -> Iterator[LocalPair]:
    """Runs a pair for the length of a `with` block, showing one line while it starts.

    Raises:
        CliError: It can't start.
    """
    with interruptible(), LocalPair(options, os.getpid()) as pair:
        with err.status(f"starting pair {options.pair.name}"):
            pair.start()
        yield pair


def run_up(options: LocalOptions) -> None:
    """Runs a pair until it is told to stop.

    Raises:
        CliError: It can't start, or a service ended by itself.
    """
    try:
        with interruptible(), LocalPair(options, os.getpid()) as pair:
            if out.is_terminal:
                _run_with_table(pair)
            else:
                _run_with_lines(pair, options)
    except KeyboardInterrupt:
        out.print("stopped")


def _run_with_table(pair: LocalPair) -> None:
    with Live(console=out, auto_refresh=False) as live:
        shown_at = -_REFRESH_S

        def show(footer: str) -> None:
            nonlocal shown_at
            if time.monotonic() - shown_at >= _REFRESH_S:
                live.update(status_table(pair.processes, pair.probe(), footer), refresh=True)
                shown_at = time.monotonic()

        pair.start(lambda: show("starting"))
        while True:
            pair.check()
            show(f'try: trivium generate "…"   orchestrator: {pair.address}   Ctrl-C stops')
            time.sleep(0.2)


def _run_with_lines(pair: LocalPair, options: LocalOptions) -> None:
    listening: set[str] = set()

    def report() -> None:
        for service in pair.processes:
            address = service.address
            if address is not None and service.name not in listening:
                listening.add(service.name)
                out.print(f"{service.name} (pid {service.pid}) listens on {address}", soft_wrap=True)

    out.print(f"starting pair {options.pair.name}", soft_wrap=True)
    pair.start(report)
    report()
    out.print(f"ready: pair {options.pair.name} answers on {pair.address}", soft_wrap=True)
    while True:
        pair.check()
        time.sleep(_REFRESH_S)
