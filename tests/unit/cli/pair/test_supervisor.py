import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.pair.child import Child
from services.cli.pair.supervisor import Backoff, Supervised, Supervisor


class FakeChild(Child):
    """A child without a process. It runs from `start` until `die`."""

    def __init__(self, log_path: Path, name: str = "slm", calls: list[str] | None = None) -> None:
        super().__init__(name, log_path)
        self.calls = [] if calls is None else calls
        self.is_interrupted = False
        self.num_starts = 0
        self.cannot_start: OSError | None = None
        self.started_by: list[str] = []
        self._code: int | None = 0

    @property
    def address(self) -> str | None:
        return "127.0.0.1:1"

    @property
    def pid(self) -> int:
        return 1000 + self.num_starts

    def poll(self) -> int | None:
        return self._code

    @property
    def ending(self) -> str:
        return "was killed by SIGKILL"

    def start(self) -> None:
        self.num_starts += 1
        if self.cannot_start:
            raise self.cannot_start
        self.started_by.append(threading.current_thread().name)
        self._code = None

    def die(self) -> None:
        self._code = -9

    def terminate(self) -> None:
        self.calls.append(f"{self.name} terminate")

    def wait(self, timeout_s: float) -> None:
        self.calls.append(f"{self.name} wait")
        if self.is_interrupted:
            self.is_interrupted = False
            raise KeyboardInterrupt
        self._code = 0

    def kill(self) -> None:
        if self._code is None:
            self._code = -9

    def _command(self) -> list[str]:
        raise AssertionError("it has no process")


@pytest.fixture
def child(tmp_path: Path) -> FakeChild:
    return FakeChild(tmp_path / "slm.log")


def test_backoff_doubles_while_lives_are_short() -> None:
    backoff = Backoff()
    assert [backoff.pause_s(1.0) for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_backoff_starts_over_after_a_long_life() -> None:
    backoff = Backoff()
    pauses = [backoff.pause_s(lived_s) for lived_s in (1.0, 1.0, 29.9, 30.0, 1.0)]
    assert pauses == [0.5, 1.0, 2.0, 0.5, 1.0]


def test_supervised_is_started_once_and_first_without_a_restart(child: FakeChild) -> None:
    supervised = Supervised(child)
    assert supervised.start_if_due(100.0)
    assert not supervised.start_if_due(101.0)
    assert not supervised.has_ended(101.0)
    assert (child.num_starts, supervised.num_restarts, supervised.last_end) == (1, 0, "")


def test_supervised_that_ended_is_started_again_after_its_pause(child: FakeChild) -> None:
    supervised = Supervised(child)
    supervised.start_if_due(100.0)
    child.die()
    assert supervised.has_ended(101.0)
    assert not supervised.has_ended(101.0)
    assert supervised.last_end == "was killed by SIGKILL"
    assert supervised.seconds_until_start(101.2) == pytest.approx(0.3)
    assert not supervised.start_if_due(101.4)
    assert supervised.start_if_due(101.5)
    assert (child.num_starts, supervised.num_restarts) == (2, 1)


def test_supervised_that_the_machine_has_no_room_for_is_tried_again(child: FakeChild) -> None:
    supervised = Supervised(child)
    supervised.start_if_due(0.0)
    child.die()
    supervised.has_ended(60.0)
    child.cannot_start = OSError(11, "Resource temporarily unavailable")
    assert not supervised.start_if_due(60.5)
    assert "Resource temporarily unavailable" in supervised.last_end
    child.cannot_start = None
    assert not supervised.start_if_due(61.4)
    assert supervised.start_if_due(61.5)


@pytest.fixture
def started() -> threading.Semaphore:
    return threading.Semaphore(0)


@pytest.fixture
def supervisor(started: threading.Semaphore) -> Iterator[Supervisor]:
    supervisor = Supervisor(lambda _child: started.release())
    yield supervisor
    supervisor.stop([], 0, 0)


def test_supervisor_starts_again_in_the_one_thread_and_tells(
    supervisor: Supervisor, started: threading.Semaphore, child: FakeChild
) -> None:
    supervisor.start(child)
    assert started.acquire(timeout=5)
    supervisor.keep_alive()
    child.die()
    assert started.acquire(timeout=5)
    assert child.started_by == ["supervisor"] * 2
    supervisor.stop([], 0, 0)
    assert list(supervisor.news()) == [
        "slm (pid 1001) was killed by SIGKILL; it is started again in 0.5 s",
        "slm is started again (pid 1002, restart 1)",
    ]
    assert list(supervisor.news()) == []
    assert supervisor.failure == ""


def test_supervisor_before_it_keeps_alive_an_end_is_a_failure(
    supervisor: Supervisor, started: threading.Semaphore, child: FakeChild
) -> None:
    supervisor.start(child)
    assert started.acquire(timeout=5)
    child.die()
    while not supervisor.failure:
        assert not started.acquire(timeout=0.01)
    assert supervisor.failure == f"slm (pid 1001) was killed by SIGKILL (log: {child.log_path})"


def test_supervisor_stopped_ends_the_first_before_the_others_and_starts_none_again(
    supervisor: Supervisor, started: threading.Semaphore, tmp_path: Path
) -> None:
    calls: list[str] = []
    slm, front = FakeChild(tmp_path / "a", "slm", calls), FakeChild(tmp_path / "b", "front", calls)
    for child in (slm, front):
        supervisor.start(child)
        assert started.acquire(timeout=5)
    supervisor.keep_alive()
    supervisor.stop([front], 1, 1)
    assert calls[:3] == ["front terminate", "front wait", "slm terminate"]
    assert (slm.poll(), front.poll()) == (0, 0)
    assert not started.acquire(blocking=False)


def test_supervisor_interrupted_while_it_stops_kills_all_at_once(
    supervisor: Supervisor, started: threading.Semaphore, tmp_path: Path
) -> None:
    slm, front = FakeChild(tmp_path / "a", "slm"), FakeChild(tmp_path / "b", "front")
    for child in (slm, front):
        supervisor.start(child)
        assert started.acquire(timeout=5)
    front.is_interrupted = True
    with pytest.raises(KeyboardInterrupt):
        supervisor.stop([front], 60, 60)
    assert (slm.poll(), front.poll()) == (-9, -9)


def test_supervisor_that_cannot_start_at_all_is_a_failure(supervisor: Supervisor, child: FakeChild) -> None:
    child.cannot_start = OSError(2, "No such file or directory")
    supervisor.start(child)
    while not supervisor.failure:
        time.sleep(0.01)
    assert "No such file or directory" in supervisor.failure


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_supervisor_that_broke_says_so(child: FakeChild) -> None:
    def fail(_child: Child) -> None:
        raise AssertionError("a fault")

    supervisor = Supervisor(fail)
    supervisor.start(child)
    while not supervisor.failure:
        time.sleep(0.01)
    supervisor.stop([], 0, 0)
    assert supervisor.failure.startswith("nothing watches the services any more")
