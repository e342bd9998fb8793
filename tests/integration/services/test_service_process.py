import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.cli.pair.launch import ServiceCommand
from services.cli.pair.service_process import ServiceProcess
from services.common import guarded

started: list[ServiceProcess] = []


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    while started:
        started.pop().kill()


def start(mode: str, directory: Path) -> ServiceProcess:
    command = ServiceCommand("stub", "tests.integration.harness.stub_service", [mode])
    started.append(ServiceProcess(command, port=0, directory=directory))
    started[-1].start()
    return started[-1]


def listening(mode: str, directory: Path) -> ServiceProcess:
    service = start(mode, directory)
    until(lambda: service.address is not None)
    assert service.address == "127.0.0.1:4242"
    return service


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def child_of(service: ServiceProcess) -> psutil.Process:
    [child] = psutil.Process(service.pid).children()
    return child


def test_service_terminated_ends_by_the_signal(tmp_path: Path) -> None:
    service = listening("idle", tmp_path)
    service.terminate()
    service.wait(10)
    assert service.ending == "was killed by SIGTERM"


def test_service_ended_by_a_signal_without_a_name_tells_its_number(tmp_path: Path) -> None:
    service = listening("idle", tmp_path)
    os.kill(service.pid, signal.SIGRTMIN + 1)
    until(lambda: service.poll() is not None)
    assert service.ending == f"was killed by signal {signal.SIGRTMIN + 1}"


def test_service_that_ignores_sigterm_is_killed_in_time(tmp_path: Path) -> None:
    service = listening("stubborn", tmp_path)
    service.terminate()
    service.wait(0.2)
    assert service.poll() == -signal.SIGKILL


def test_service_killed_takes_its_own_processes_along(tmp_path: Path) -> None:
    service = listening("parent", tmp_path)
    child = child_of(service)
    service.kill()
    child.wait(10)
    assert not child.is_running()


def test_service_that_ended_by_itself_leaves_nothing_of_its_own_behind(tmp_path: Path) -> None:
    service = listening("parent", tmp_path)
    child = child_of(service)
    os.kill(service.pid, signal.SIGKILL)
    until(lambda: service.poll() is not None)
    child.wait(10)
    assert not child.is_running()


def test_service_terminated_leaves_nothing_of_its_own_behind(tmp_path: Path) -> None:
    service = listening("parent", tmp_path)
    child = child_of(service)
    # It ends by itself, without a word to its child.
    os.kill(service.pid, signal.SIGINT)
    service.wait(10)
    child.wait(10)
    assert not child.is_running()


def test_service_that_failed_tells_code_and_reason(tmp_path: Path) -> None:
    service = start("fail", tmp_path)
    service.wait(20)
    assert service.address is None
    assert service.ending == "ended with exit code 3: the reason"


def test_service_started_again_keeps_port_and_log(tmp_path: Path) -> None:
    service = listening("idle", tmp_path)
    service.log_path.write_text("of the first life\n")
    service.kill()
    service.start()
    assert service.address == "127.0.0.1:4242"
    process = psutil.Process(service.pid)
    # The guard is there first, and has all of it in its own command line.
    until(lambda: process.cmdline()[:2] == [sys.executable, "-m"])
    command = process.cmdline()
    assert command[command.index("--port") + 1] == "4242"
    assert service.log_path.read_text() == "of the first life\n"


def test_service_of_a_new_pair_forgets_the_old_port_and_the_old_log(tmp_path: Path) -> None:
    (tmp_path / "stub.port").write_text("1\n")
    (tmp_path / "stub.log").write_text("of another pair\n")
    service = start("fail", tmp_path)
    service.wait(20)
    assert service.address is None
    assert "another pair" not in service.log_path.read_text()


def test_guard_whose_parent_has_ended_starts_nothing() -> None:
    command = [sys.executable, "-I", "-S", guarded.__file__, "1", sys.executable, "-c", "print('started')"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("", "")


def test_service_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; "
        "from tests.integration.services import test_service_process as test; "
        "service = test.listening('stubborn', Path(sys.argv[1])); print(service.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        service = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    # It isn't this process's child: its end can only be seen.
    until(lambda: not service.is_running())
