"""Runs a pair on this machine: Redis, its services and the gateway as child processes.

Owns their order of start, and their end. `services.cli.pair.supervisor` keeps them running between the two, and
`services.cli.pair.up` shows how they are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.cli.channel import talk_to_own_pair
from services.cli.errors import CliError
from services.cli.pair.checks import check_before_start, check_state_dir
from services.cli.pair.child import Child
from services.cli.pair.launch import DRAIN_TIMEOUT_S, backend_commands, gateway_command, orchestrator_command
from services.cli.pair.probe import Probe, probe, probe_all
from services.cli.pair.redis_server import RedisServer
from services.cli.pair.router_link import lead_to, router_link
from services.cli.pair.service_process import ServiceProcess
from services.cli.pair.state import LocalProcess, RunningPair, clear_state, load_state, save_state
from services.cli.pair.supervisor import Supervised, Supervisor
from services.common.pair import Pair

_POLL_S = 0.1
_PROBE_TIMEOUT_S = 1.0
# Whoever pressed Ctrl-C is back at the prompt within 3 s: time for answers, then for the processes to end.
_ANSWERS_TIMEOUT_S = DRAIN_TIMEOUT_S + 0.5
_END_TIMEOUT_S = 0.4


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """How a pair is run on this machine.

    Args:
        pair: What to serve.
        state_dir: Where the state file and the logs go.
        port: TCP port of the orchestrator; 0 picks a free one.
        http_port: TCP port of the gateway; 0 picks a free one, None is without one.
        redis_url: Redis to use; one is started if None.
        start_timeout_s: Seconds until every service has to serve; downloading a model counts.
    """

    pair: Pair
    state_dir: Path
    port: int = 0
    http_port: int | None = None
    redis_url: str | None = None
    start_timeout_s: float = 600.0


class LocalPair:
    """A context manager: nothing of the pair outlives it.

    Args:
        options: How to run it.
    """

    def __init__(self, options: LocalOptions) -> None:
        self.options = options
        self._router_link = router_link(options.state_dir)
        self._backends = backend_commands(_found_through(self._router_link, options.pair))
        front = ["orchestrator"] if options.http_port is None else ["orchestrator", "gateway"]
        self._state = RunningPair(
            pair=options.pair.name,
            owner=LocalProcess.of(os.getpid()),
            services=(*(backend.name for backend in self._backends), *front),
        )
        self._state_lock = threading.Lock()
        self._logs = options.state_dir / "logs"
        self._resources = contextlib.ExitStack()
        self._supervisor = Supervisor(self._note_start)

    @property
    def children(self) -> Sequence[Supervised]:
        """Redis, if it has one of its own, and the services, in the order of their start."""
        return self._supervisor.supervised

    @property
    def address(self) -> str:
        """Where the orchestrator listens, as "host:port". Valid after `start`."""
        return self._state.addresses["orchestrator"]

    @property
    def http_url(self) -> str | None:
        """What OpenAI's clients call the base URL; None without a gateway. Valid after `start`."""
        address = self._state.addresses.get("gateway")
        return address and f"http://{address}/v1"

    def news(self) -> Iterator[str]:
        """Which children ended and were started again since the last call, in lines."""
        return self._supervisor.news()

    def __enter__(self) -> LocalPair:
        options = self.options
        talk_to_own_pair()
        check_state_dir(options.state_dir)
        # What is left of an earlier command may hold the port.
        _stop_leftovers(options.state_dir)
        check_before_start(options.pair, options.port, options.redis_url, options.http_port)
        self._logs.mkdir(parents=True, exist_ok=True)
        save_state(options.state_dir, self._state)
        self._resources.callback(clear_state, options.state_dir)
        if options.pair.router is not None and options.pair.router.checkpoint is not None:
            lead_to(self._router_link, Path(options.pair.router.checkpoint))
            self._resources.callback(self._router_link.unlink, missing_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        # Answers that run go on for a moment, with all that they need; then everything ends.
        front = [one.child for one in self.children if one.child.name in ("gateway", "orchestrator")]
        try:
            self._supervisor.stop(front, _ANSWERS_TIMEOUT_S, _END_TIMEOUT_S)
        finally:
            self._resources.close()

    def start(self, on_poll: Callable[[], None] = lambda: None) -> None:
        """Starts everything and waits until the front serves. From then on, what ends is started again.

        Args:
            on_poll: Called a few times a second while waiting.

        Raises:
            CliError: Something ended, or didn't serve in time.
        """
        deadline = time.monotonic() + self.options.start_timeout_s
        redis_url = self.options.redis_url or self._start_redis()
        for command in self._backends:
            self._supervisor.start(ServiceProcess(command, port=0, directory=self._logs))
        # Of those that are noted, since one may begin to listen in the meantime.
        self._await(lambda: all(each.name in self._state.addresses for each in self._backends), deadline, on_poll)
        command = orchestrator_command(self.options.pair, self._state.addresses, redis_url)
        self._supervisor.start(ServiceProcess(command, port=self.options.port, directory=self._logs))
        self._await(lambda: self._serves("orchestrator"), deadline, on_poll)
        if self.options.http_port is not None:
            command = gateway_command(self.options.pair, self.address)
            self._supervisor.start(ServiceProcess(command, port=self.options.http_port, directory=self._logs))
            self._await(lambda: self._serves("gateway"), deadline, on_poll)
        self._supervisor.keep_alive()
        with self._changed_state() as state:
            state.ready = True

    def check(self) -> None:
        """Makes sure that the children are watched.

        Raises:
            CliError: One can't start at all, or nobody would start it again.
        """
        if self._supervisor.failure:
            raise CliError(self._supervisor.failure)

    def check_unbroken(self) -> None:
        """Makes sure that nothing was started again.

        Raises:
            CliError: Something was, so that what was measured meanwhile means nothing.
        """
        for supervised in self.children:
            if supervised.last_end:
                raise CliError(f"{supervised.child.name} {supervised.last_end} (log: {supervised.child.log_path})")

    def probe(self) -> list[Probe]:
        """Asks each service that listens how it is."""
        return probe_all(self._state.addresses, timeout_s=_PROBE_TIMEOUT_S)

    def _start_redis(self) -> str:
        # Made with mode 0700, and with a short path.
        folder = Path(tempfile.mkdtemp(prefix="trivium-redis-"))
        self._resources.callback(shutil.rmtree, folder, ignore_errors=True)
        with self._changed_state() as state:
            state.folders.append(folder)
        redis = RedisServer(folder, self._logs / "redis.log")
        self._supervisor.start(redis)
        return redis.url

    def _note_start(self, child: Child) -> None:
        """Runs in the supervisor's thread."""
        assert child.identity is not None
        # The file helps other commands to find the pair; a full disk is no reason to end it.
        with contextlib.suppress(OSError), self._changed_state() as state:
            state.processes[child.name] = child.identity

    def _await(self, condition: Callable[[], bool], deadline: float, on_poll: Callable[[], None]) -> None:
        while True:
            self.check()
            self._note_addresses()
            if condition():
                return
            if time.monotonic() > deadline:
                states = ", ".join(f"{probe.service} {probe.health} {probe.error}".strip() for probe in self.probe())
                waited = f"{self.options.start_timeout_s:.0f} s"
                raise CliError(
                    f"the pair didn't serve within {waited}: {states or 'nothing listens'}; logs are in {self._logs}"
                )
            on_poll()
            time.sleep(_POLL_S)

    def _note_addresses(self) -> None:
        for supervised in self.children:
            child = supervised.child
            if isinstance(child, ServiceProcess) and child.name not in self._state.addresses and child.address:
                with self._changed_state() as state:
                    state.addresses[child.name] = child.address

    def _serves(self, name: str) -> bool:
        address = self._state.addresses.get(name)
        return address is not None and probe(name, address, timeout_s=_PROBE_TIMEOUT_S).health == "SERVING"

    @contextlib.contextmanager
    def _changed_state(self) -> Iterator[RunningPair]:
        """Saves what is changed. The supervisor's thread notes starts while the main one notes addresses."""
        with self._state_lock:
            yield self._state
            save_state(self.options.state_dir, self._state)


def _found_through(link: Path, pair: Pair) -> Pair:
    """The pair, its router looked for behind a link."""
    if pair.router is None:
        return pair
    return pair.model_copy(update={"router": pair.router.model_copy(update={"checkpoint": str(link)})})


def _stop_leftovers(directory: Path) -> None:
    """Makes sure that no pair runs from this directory, and ends what a killed command left behind.

    Raises:
        CliError: A pair runs.
    """
    state = load_state(directory)
    if state is None:
        return
    if state.owner.handle() is not None:
        raise CliError(
            f"pair {state.pair!r} already runs here (pid {state.owner.pid}); stop it, or give another --state-dir"
        )
    # They are about to end by themselves, as their parent did.
    handles = [handle for process in state.processes.values() if (handle := process.handle()) is not None]
    for handle in handles:
        with contextlib.suppress(psutil.NoSuchProcess):
            handle.kill()
    psutil.wait_procs(handles)
    for folder in state.folders:
        shutil.rmtree(folder, ignore_errors=True)
    clear_state(directory)
