"""Runs a pair on this machine: Redis and the four services as child processes.

Owns their order of start, the watch over them, and their end. Shows nothing; `services.cli.pair.up` does.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.cli.errors import CliError
from services.cli.pair.launch import ServiceCommand, backend_commands, orchestrator_command
from services.cli.pair.probe import Probe, probe
from services.cli.pair.redis_server import RedisServer, RedisUnavailable
from services.cli.pair.service_process import ServiceProcess
from services.cli.pair.state import LocalProcess, RunningPair, clear_state, load_state, save_state
from services.common.pair import Pair

_POLL_S = 0.2
_STOP_TIMEOUT_S = 15.0
"""Longer than the services' drain timeout (`services.cli.pair.launch`)."""


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """How a pair is run on this machine.

    Args:
        pair: What to serve.
        state_dir: Where the state file and the logs go.
        port: TCP port of the orchestrator; 0 picks a free one.
        redis_url: Redis to use; one is started if None.
        start_timeout_s: Seconds until every service has to serve; downloading a model counts.
    """

    pair: Pair
    state_dir: Path
    port: int = 0
    redis_url: str | None = None
    start_timeout_s: float = 600.0


class LocalPair:
    """A context manager: nothing of the pair outlives it.

    Args:
        options: How to run it.
        owner_pid: Process id of this command.
    """

    def __init__(self, options: LocalOptions, owner_pid: int) -> None:
        self._options = options
        self._state = RunningPair(pair=options.pair.name, owner=LocalProcess.of(owner_pid))
        self._logs = options.state_dir / "logs"
        self._resources = contextlib.ExitStack()
        self._services: dict[str, ServiceProcess] = {}

    @property
    def processes(self) -> Sequence[ServiceProcess]:
        """The services that were started, in the order of their start."""
        return tuple(self._services.values())

    @property
    def address(self) -> str:
        """Where the orchestrator listens, as "host:port". Valid after `start`."""
        return self._state.addresses["orchestrator"]

    def __enter__(self) -> LocalPair:
        _stop_leftovers(self._options.state_dir)
        self._logs.mkdir(parents=True, exist_ok=True)
        save_state(self._options.state_dir, self._state)
        self._resources.callback(clear_state, self._options.state_dir)
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._stop_services()
        finally:
            self._resources.close()

    def start(self, on_poll: Callable[[], None] = lambda: None) -> None:
        """Starts everything and waits until the orchestrator serves.

        Args:
            on_poll: Called a few times a second while waiting.

        Raises:
            CliError: The port is taken; or a service ended, or didn't serve in time.
        """
        _check_port_is_free(self._options.port)
        deadline = time.monotonic() + self._options.start_timeout_s
        redis_url = self._options.redis_url or self._start_redis()
        for command in backend_commands(self._options.pair):
            self._launch(command)
        self._await(lambda: len(self._state.addresses) == len(self._services), deadline, on_poll)
        self._launch(orchestrator_command(self._options.pair, self._state.addresses, redis_url), self._options.port)
        self._await(self._orchestrator_serves, deadline, on_poll)
        self._state.ready = True
        save_state(self._options.state_dir, self._state)

    def check(self) -> None:
        """Makes sure that every service still runs.

        Raises:
            CliError: One doesn't; the message has its last log lines.
        """
        for service in self.processes:
            code = service.exit_code
            if code is not None:
                ending = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                log = "\n".join(f"  {line}" for line in service.log_tail())
                raise CliError(f"{service.name} (pid {service.pid}) {ending}. The end of {service.log_path}:\n{log}")

    def probe(self) -> list[Probe]:
        """Asks each service that listens how it is."""
        return [probe(name, address, timeout_s=1.0) for name, address in self._state.addresses.items()]

    def _start_redis(self) -> str:
        try:
            redis = self._resources.enter_context(RedisServer())
        except RedisUnavailable as error:
            raise CliError(str(error)) from error
        self._state.processes["redis"] = LocalProcess.of(redis.pid)
        return redis.url

    def _launch(self, command: ServiceCommand, port: int = 0) -> None:
        service = ServiceProcess(command, port=port, directory=self._logs)
        self._services[command.name] = service
        self._state.processes[command.name] = service.identity
        save_state(self._options.state_dir, self._state)

    def _await(self, condition: Callable[[], bool], deadline: float, on_poll: Callable[[], None]) -> None:
        while True:
            self.check()
            self._note_addresses()
            if condition():
                return
            if time.monotonic() > deadline:
                states = ", ".join(f"{probe.service} {probe.health} {probe.error}".strip() for probe in self.probe())
                waited = f"{self._options.start_timeout_s:.0f} s"
                raise CliError(
                    f"the pair didn't serve within {waited}: {states or 'nothing listens'}; logs are in {self._logs}"
                )
            on_poll()
            time.sleep(_POLL_S)

    def _note_addresses(self) -> None:
        for service in self.processes:
            address = service.address
            if address is not None and service.name not in self._state.addresses:
                self._state.addresses[service.name] = address
                save_state(self._options.state_dir, self._state)

    def _orchestrator_serves(self) -> bool:
        address = self._state.addresses.get("orchestrator")
        return address is not None and probe("orchestrator", address).health == "SERVING"

    def _stop_services(self) -> None:
        """Asks all of them to drain and end. A second Ctrl-C kills them at once."""
        try:
            for service in self.processes:
                service.terminate()
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            for service in self.processes:
                service.wait(max(0.1, deadline - time.monotonic()))
        finally:
            for service in self.processes:
                service.kill()


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
    handles = [handle for process in state.processes.values() if (handle := process.handle()) is not None]
    for handle in handles:
        handle.terminate()
    for handle in psutil.wait_procs(handles, timeout=_STOP_TIMEOUT_S)[1]:
        handle.kill()
    clear_state(directory)


def _check_port_is_free(port: int) -> None:
    """Tells at once what the orchestrator would find out last.

    Raises:
        CliError: Someone listens there.
    """
    with socket.socket() as probe_socket:
        # As gRPC binds: an old connection that is still closing is no one.
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind(("127.0.0.1", port))
        except OSError as error:
            raise CliError(f"can't listen on 127.0.0.1:{port}: {error.strerror}; give another with --port") from error
