import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.cli.pair.launch import ServiceCommand
from services.cli.pair.service_process import ServiceProcess

started: list[ServiceProcess] = []


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    while started:
        started.pop().kill()


def start(mode: str, directory: Path) -> ServiceProcess:
    command = ServiceCommand("stub", "tests.integration.stub_service", [mode])
    started.append(ServiceProcess(command, port=0, directory=directory))
    return started[-1]


def listening(mode: str, directory: Path) -> ServiceProcess:
    service = start(mode, directory)
    deadline = time.monotonic() + 20
    while service.address is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert service.address == "127.0.0.1:4242"
    return service


def test_service_terminated_ends_by_the_signal(tmp_path: Path) -> None:
    service = listening("idle", tmp_path)
    service.terminate()
    service.wait(10)
    assert service.exit_code == -15


def test_service_that_ignores_sigterm_is_killed_in_time(tmp_path: Path) -> None:
    service = listening("stubborn", tmp_path)
    service.terminate()
    service.wait(0.2)
    assert service.exit_code == -9


def test_service_killed_takes_its_own_processes_along(tmp_path: Path) -> None:
    service = listening("parent", tmp_path)
    child = psutil.Process(int(service.log_tail()[0]))
    service.kill()
    child.wait(10)
    assert not child.is_running()


def test_service_that_failed_tells_code_and_last_lines(tmp_path: Path) -> None:
    service = start("fail", tmp_path)
    service.wait(20)
    assert service.exit_code == 3
    assert service.address is None
    assert service.log_tail() == ["first line", "the reason"]


def test_service_started_anew_forgets_the_old_port(tmp_path: Path) -> None:
    (tmp_path / "stub.port").write_text("1\n")
    assert start("fail", tmp_path).address is None
