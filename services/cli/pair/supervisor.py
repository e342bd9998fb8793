"""Keeps children running: one that ends is started again after a pause, which grows while it ends soon after.

Owns when a child is started again, and the thread that starts all of them. Shows nothing.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from services.cli.pair.child import Child

_POLL_S = 0.1


@dataclass(slots=True)
class Backoff:
    """How long to wait before a child is started again.

    Args:
        first_s: The first pause.
        longest_s: The longest one.
        calm_s: After a life of this length, the next pause is the first one again.
    """

    first_s: float = 0.5
    longest_s: float = 10.0
    calm_s: float = 30.0
    _next_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._next_s = self.first_s

    def pause_s(self, lived_s: float) -> float:
        """The pause after a life of `lived_s` seconds: twice the last one, unless that life was long."""
        pause_s = self.first_s if lived_s >= self.calm_s else self._next_s
        self._next_s = min(2 * pause_s, self.longest_s)
        return pause_s


@dataclass(slots=True)
class Supervised:
    """A child, and how often and why it was started again.

    Attributes:
        child: The process.
        num_restarts: How often it was started again.
        last_end: How its last life ended; empty in its first.
        is_up: Whether it runs, as far as was seen.
    """

    child: Child
    num_restarts: int = 0
    last_end: str = ""
    is_up: bool = False
    _backoff: Backoff = field(default_factory=Backoff)
    _started_at: float = 0.0
    _starts_at: float = 0.0

    def has_ended(self, now: float) -> bool:
        """Looks whether it ended since it was last seen, and says when it is to be started again."""
        if not self.is_up or self.child.poll() is None:
            return False
        self._note_end(self.child.ending, now)
        return True

    def start_if_due(self, now: float) -> bool:
        """Starts it if it is down and its pause is over. Returns whether it did."""
        if self.is_up or now < self._starts_at:
            return False
        self.num_restarts += bool(self.last_end)
        self._started_at = now
        try:
            self.child.start()
        except OSError as error:
            self._note_end(f"can't be started: {error}", now)
            return False
        self.is_up = True
        return True

    def seconds_until_start(self, now: float) -> float:
        """Seconds that are left of its pause."""
        return max(0.0, self._starts_at - now)

    def _note_end(self, how: str, now: float) -> None:
        self.is_up = False
        self.last_end = how
        self._starts_at = now + self._backoff.pause_s(now - self._started_at)


class Supervisor:
    """Starts children in a thread that outlives them, as their guard asks for, and starts them again.

    Until `keep_alive` is called an end is a failure: what can't start at all isn't worth a second try.

    Args:
        on_start: Called in that thread each time that a child was started.
    """

    def __init__(self, on_start: Callable[[Child], None]) -> None:
        self._on_start = on_start
        self._lock = threading.Lock()
        self._supervised: list[Supervised] = []
        self._keeps_alive = False
        self._is_stopping = False
        self._stopped = threading.Event()
        self._failure = ""
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    @property
    def supervised(self) -> Sequence[Supervised]:
        """The children in the order in which they were added."""
        return tuple(self._supervised)

    @property
    def failure(self) -> str:
        """Why the children can't go on; empty while they can."""
        return self._failure

    def start(self, child: Child) -> None:
        """Has a child started soon."""
        with self._lock:
            self._supervised.append(Supervised(child))
        if not self._thread.is_alive():
            self._thread.start()

    def keep_alive(self) -> None:
        """From now on, children that end are started again."""
        with self._lock:
            self._keeps_alive = True

    def news(self) -> Iterator[str]:
        """What happened since the last call, a line for each end and each start after it."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._news.get_nowait()

    def stop(self, first: Sequence[Child], first_timeout_s: float, timeout_s: float) -> None:
        """Ends all children; none is started again. Interrupted, it kills those that are left at once.

        Args:
            first: Children that the others have to outlive.
            first_timeout_s: Seconds that those may take.
            timeout_s: Seconds that the others may take then. What is left after that is killed.
        """
        with self._lock:
            self._is_stopping = True
        children = [one.child for one in self._supervised]
        try:
            _end(first, first_timeout_s)
            _end(children, timeout_s)
        finally:
            for child in children:
                child.kill()
            # Not before: they would end with the thread.
            self._stopped.set()
            if self._thread.is_alive():
                self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopped.wait(_POLL_S):
                with self._lock:
                    if not self._is_stopping and not self._failure:
                        for supervised in self._supervised:
                            self._watch(supervised, time.monotonic())
        finally:
            if not self._stopped.is_set():
                self._failure = "nothing watches the services any more: this is a fault of trivium"

    def _watch(self, supervised: Supervised, now: float) -> None:
        child = supervised.child
        if supervised.has_ended(now):
            what = f"{child.name} (pid {child.pid}) {supervised.last_end}"
            if not self._keeps_alive:
                self._failure = f"{what} (log: {child.log_path})"
                return
            self._news.put(f"{what}; it is started again in {supervised.seconds_until_start(now):.1f} s")
        if supervised.start_if_due(now):
            self._on_start(child)
            if supervised.num_restarts:
                self._news.put(f"{child.name} is started again (pid {child.pid}, restart {supervised.num_restarts})")
        elif supervised.last_end and not self._keeps_alive:
            self._failure = f"{child.name} {supervised.last_end}"


def _end(children: Sequence[Child], timeout_s: float) -> None:
    for child in children:
        child.terminate()
    deadline = time.monotonic() + timeout_s
    for child in children:
        child.wait(max(0.0, deadline - time.monotonic()))
