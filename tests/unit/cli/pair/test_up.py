import os
import signal
from collections.abc import Iterator

import pytest

from services.cli.pair.up import interruptible

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    previous = {number: signal.getsignal(number) for number in ALL}
    yield
    assert {number: signal.getsignal(number) for number in ALL} == previous


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_interruptible_two_signals_interrupt_and_a_third_does_not(number: signal.Signals) -> None:
    with interruptible():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)


def test_interruptible_hangup_that_is_ignored_stays_so() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, previous)
