"""The project's processes as forks of one that has imported torch already: a start costs the model's loading alone.

Owns also replicas that come back at another IP address, as pods do, and the list of addresses that orchestrators look
names up in. They listen on one port at different addresses of the loopback.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import uvloop

from services.common.serving.lifecycle import Lifecycle
from services.common.serving.server import serve
from services.common.serving.settings import read_settings
from services.orchestrator.process import OrchestratorService
from services.orchestrator.settings import OrchestratorSettings
from tests.integration.harness.processes import Launched, Process

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = [
    "tests.integration.harness.forked",
    "services.slm.__main__",
    "services.llm.__main__",
    "services.engines.transformers",
    "transformers.models.qwen2.modeling_qwen2",
    "router_service.__main__",
    "router_service.serving.scorer",
]


class HostsFile:
    """Names and their addresses in a file, for all processes to read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hosts: dict[str, list[str]] = {}

    async def __call__(self, host: str) -> Sequence[str]:
        """Looks a name up, as `services.orchestrator.replicas.discovery.Resolve` does."""
        hosts: dict[str, list[str]] = json.loads(self._path.read_text())
        if host not in hosts:
            raise OSError(f"{host} has no address")
        return hosts[host]

    def add(self, name: str, address: str) -> None:
        self._hosts.setdefault(name, []).append(address)
        self._write()

    def remove(self, name: str, address: str) -> None:
        if address in self._hosts.get(name, []):
            self._hosts[name].remove(address)
            self._write()

    def _write(self) -> None:
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(self._hosts))
        unfinished.replace(self._path)


class ForkedProcess(Process):
    """A service at an address of its own.

    Args:
        module: "services.slm", "services.orchestrator", ...
        host: Address of the loopback that it listens on.
        port: Its port.
        arguments: Its other flags.
        directory: Where its log goes.
        hosts: Where an orchestrator looks names up.
    """

    def __init__(
        self, module: str, host: str, port: int, *arguments: str, directory: Path, hosts: HostsFile | None = None
    ) -> None:
        self.host = host
        self.address = f"{host}:{port}"
        at = ("--host", host, "--port", str(port))
        super().__init__(module, *at, *arguments, directory=directory, launch=partial(fork, hosts=hosts))

    @property
    def target(self) -> str:
        return self.address


def fork(
    module: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str], *, hosts: HostsFile | None = None
) -> Launched:
    """Starts a fork that runs `module` as `python -m` does; see `tests.integration.harness.processes.Launch`."""
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        # A process that has threads can't be forked safely.
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.forkserver.ensure_running()
    given = (module, list(arguments), log, dict(environ), hosts)
    # A daemon: pytest doesn't wait for one that a test has left behind.
    process = _CONTEXT.Process(target=_run, args=given, daemon=True)
    process.start()
    return _Fork(process)


class _Fork:
    """What `Launched` asks for."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process.pid is not None, "it was started"
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def _run(module: str, arguments: list[str], log: Path, environ: dict[str, str], hosts: HostsFile | None) -> None:
    """Runs in the new process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environ)
    # The server passes over what it can't import in silence, and every start would take long.
    missing = [name for name in _PRELOADED if name not in sys.modules]
    assert not missing, f"not preloaded: {missing}"
    if hosts is None:
        sys.argv = [module, *arguments]
        importlib.import_module(f"{module}.__main__").main()
        return
    settings = read_settings(OrchestratorSettings, prog=module, example="", argv=arguments)
    sys.exit(uvloop.run(_serve_orchestrator(settings, hosts)))


def _end_with_parent() -> None:
    """Ends this process with the one that runs the tests, should that one be killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


async def _serve_orchestrator(settings: OrchestratorSettings, hosts: HostsFile) -> int:
    lifecycle = Lifecycle("trivium.v1.OrchestratorService", settings.replica_id)
    service = OrchestratorService(settings, lifecycle, hosts)
    return await serve(service, lifecycle, settings, service.door)
