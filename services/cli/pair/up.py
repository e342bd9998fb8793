"""`trivium up`: runs a pair until it is told to stop, and shows how its services are.

Owns what is shown (on a terminal a table that is kept up to date, elsewhere plain lines) and which signals stop it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.live import Live

from services.cli.console import err, note, out
from services.cli.errors import CliError
from services.cli.pair.launch import with_choices
from services.cli.pair.local_pair import LocalOptions, LocalPair
from services.cli.pair.probe import index_problem
from services.cli.pair.status_table import status_table
from services.cli.pairs import find_pair
from services.common.pair import Pair, load_pair
from services.common.rule_spec import RuleSpec

_REFRESH_S = 1.0
_POLL_S = 0.2


def chosen_pair(
    name_or_file: str,
    engine: str | None,
    router_checkpoint: str | None,
    *,
    allow_other_slm: bool = False,
    rule: str | None = None,
) -> Pair:
    """Loads a pair and applies what the command line chooses over it.

    Raises:
        CliError: There is no such pair, its file or the rule is wrong, or there is neither a router nor a rule that
            asks none.
    """
    try:
        pair = load_pair(find_pair(name_or_file))
        chosen = None if rule is None else RuleSpec.parse(rule)
    except ValueError as error:
        raise CliError(str(error)) from error
    return with_choices(
        pair,
        engine=engine,
        router_checkpoint=router_checkpoint,
        allow_other_slm=allow_other_slm,
        rule=chosen,
    )


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C, SIGTERM and SIGHUP end this command by KeyboardInterrupt, so that children are stopped.

    The second of them ends waiting as well; more change nothing, since all that can be is killed then. Ctrl-C counts
    even where whoever started the command had it ignored, as a shell's `&` does; SIGHUP doesn't, so `nohup` works.
    """
    terminals = [fd for fd in range(3) if os.isatty(fd)]
    num_received = 0

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal num_received
        num_received += 1
        if number == signal.SIGHUP:
            _let_go_of(terminals)
        if num_received <= 2:
            raise KeyboardInterrupt

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _let_go_of(terminals: list[int]) -> None:
    """What is written to a terminal that was closed is an error, and would get in the way of stopping."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in terminals:
        os.dup2(nothing, fd)
    os.close(nothing)


@contextmanager
def _pair(options: LocalOptions) -> Iterator[LocalPair]:
    with interruptible(), LocalPair(options) as pair:
        try:
            yield pair
        except KeyboardInterrupt:
            note("stopping; once more kills at once")
            raise


@contextmanager
def started_pair(options: LocalOptions) -> Iterator[LocalPair]:
    """Runs a pair for the length of a `with` block, showing one line while it starts.

    Raises:
        CliError: It can't start.
    """
    with _pair(options) as pair:
        with err.status(f"starting pair {options.pair.name}"):
            pair.start()
        yield pair


def run_up(options: LocalOptions) -> None:
    """Runs a pair until it is told to stop.

    Raises:
        CliError: It can't start.
    """
    try:
        with _pair(options) as pair:
            if out.is_terminal:
                _run_with_table(pair)
            else:
                _run_with_lines(pair)
    except KeyboardInterrupt:
        out.print("stopped")


def _run_with_table(pair: LocalPair) -> None:
    with Live(console=out, auto_refresh=False) as live:
        shown_at = -_REFRESH_S

        def show(footer: str) -> None:
            nonlocal shown_at
            if time.monotonic() - shown_at >= _REFRESH_S:
                table = status_table(pair.children, pair.probe(), footer, live.console.width)
                live.update(table, refresh=True)
                shown_at = time.monotonic()

        pair.start(lambda: show("starting"))
        while True:
            pair.check()
            show(f'try: trivium generate "…"   OpenAI clients: {pair.http_url}   gRPC: {pair.address}   Ctrl-C stops')
            for line in pair.news():
                live.console.print(line, soft_wrap=True, markup=False)
            time.sleep(_POLL_S)


def _run_with_lines(pair: LocalPair) -> None:
    listening: set[str] = set()

    def report() -> None:
        for supervised in pair.children:
            child = supervised.child
            if child.name not in listening and child.address is not None:
                listening.add(child.name)
                out.print(f"{child.name} (pid {child.pid}) listens on {child.address}", soft_wrap=True)

    name = pair.options.pair.name
    out.print(f"starting pair {name}", soft_wrap=True)
    pair.start(report)
    report()
    out.print(f"ready: pair {name} answers on {pair.address}", soft_wrap=True)
    told = ""
    while True:
        pair.check()
        for line in pair.news():
            out.print(line, soft_wrap=True, markup=False)
        if (problem := index_problem(pair.probe())) != told:
            out.print(f"redis: {problem or 'answers again'}", soft_wrap=True, markup=False)
            told = problem
        time.sleep(_REFRESH_S)
