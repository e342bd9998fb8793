"""The connection of the prefix index to a real Redis that hangs, dies, comes late or refuses."""

import asyncio
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from services.orchestrator.index.command_link import Refused
from services.orchestrator.index.prefix_index import PrefixHits, PrefixIndex
from services.orchestrator.index.redis_link import RedisLink
from services.orchestrator.routing.actions import AcceptedToken, Source
from tests.certificates import Authority, Secret
from tests.integration.harness.indexes import CALL_LIMIT_S, record, started_index, until_available
from tests.integration.harness.redis_fixture import RedisServer
from tests.relay import Relay

pytestmark = pytest.mark.integration

PROMPT = list(range(100))
# Of a handshake on a busy machine.
TLS_TIMEOUT_S = 5.0
TOKENS = [AcceptedToken(7, Source.SLM, 0.25), AcceptedToken(9, Source.LLM, 0.75)]


async def append(index: PrefixIndex, request_id: str) -> bool | None:
    batch = index.log_cursor(request_id, b"f", ()).batch(TOKENS)
    return (await index.append_logs([batch]))[0]


async def assert_knows_nothing(index: PrefixIndex) -> float:
    """Calls every method, and returns how long the slowest took, in seconds."""

    async def timed(call: Awaitable[object], expected: object) -> float:
        start = time.monotonic()
        assert await call == expected
        return time.monotonic() - start

    return max(
        [
            await timed(index.lookup(PROMPT), PrefixHits()),
            await timed(record(index, "slm", "a", PROMPT, 100), None),
            await timed(index.drop_replica("slm", "a"), False),
            await timed(append(index, "r"), None),
            await timed(index.read_log("r", b"f", 10), None),
        ]
    )


@asynccontextmanager
async def started_link(
    url: str, timeout_s: float = 1.0, password: str | None = None, ca_file: Path | None = None
) -> AsyncIterator[RedisLink]:
    link = RedisLink(url, timeout_s, password, ca_file)
    await link.start()
    try:
        yield link
    finally:
        await link.close()


async def test_index_without_url_knows_nothing_and_runs_no_command() -> None:
    async with started_index(None) as index:
        assert await assert_knows_nothing(index) < CALL_LIMIT_S
        assert (index.available, index.num_commands, index.num_failures, index.problem) == (False, 0, 0, "")


@pytest.mark.parametrize("url", ["http://secret@host", "redis://:pa/secret@host:port", "redis://secret:70000x/0"])
def test_unreadable_url_raises_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="redis_url") as raised:
        RedisLink(url, 1.0)
    assert "secret" not in str(raised.value)


async def _require_password(owner: Redis) -> None:
    await owner.config_set("requirepass", "pass word@:/%")


async def _forbid(owner: Redis, *rules: str) -> None:
    await owner.execute_command("ACL", "SETUSER", "default", *rules)  # type: ignore[no-untyped-call]


async def _follow_another(owner: Redis) -> None:
    await owner.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]


async def _fill(owner: Redis) -> None:
    await owner.config_set("maxmemory-policy", "noeviction")
    await owner.config_set("maxmemory", "1")


PROBLEMS: dict[str, tuple[Callable[[Redis], Coroutine[Any, Any, None]], str | None, str]] = {
    "right password": (_require_password, "pass word@:/%", ""),
    "wrong password": (_require_password, "another", "wrong password"),
    "password not given": (_require_password, None, "password required"),
    "other keys only": (lambda owner: _forbid(owner, "resetkeys", "~other:*"), None, "no permission"),
    "no scripts": (lambda owner: _forbid(owner, "-eval"), None, "no permission"),
    "a part of the commands": (lambda owner: _forbid(owner, "-setrange"), None, "no permission"),
    "a replica": (_follow_another, None, "read-only"),
    "full": (_fill, None, "out of memory"),
}


@pytest.mark.parametrize("case", PROBLEMS)
async def test_redis_that_cant_be_used_is_said_once_with_the_reason(
    redis_server: RedisServer, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "services.orchestrator")
    prepare, password, problem = PROBLEMS[case]
    async with Redis.from_url(redis_server.url) as owner:
        await prepare(owner)

    async with started_link(redis_server.url, password=password) as link:
        assert (link.problem, link.available) == (problem, not problem)
        # Through two probes more.
        await asyncio.sleep(1.2)
        assert (link.problem, link.available) == (problem, not problem)

    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == bool(problem)
    assert all(f"is away: {problem};" in warning for warning in warnings)
    assert password is None or password not in caplog.text


async def test_redis_that_becomes_unusable_in_use_says_why_and_comes_back(redis_server: RedisServer) -> None:
    async with started_index(redis_server.url) as index, Redis.from_url(redis_server.url) as owner:
        await owner.config_set("maxmemory-policy", "noeviction")
        await owner.config_set("maxmemory", "1")

        assert await append(index, "r") is None

        assert (index.available, index.problem, index.num_damaged) == (False, "out of memory", 0)
        await owner.config_set("maxmemory", "0")
        await until_available(index, limit_s=10)
        assert index.problem == ""
        assert await append(index, "r") is True


async def test_something_else_than_redis_is_named() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with started_link(f"redis://127.0.0.1:{port}/0") as link:
            assert (link.available, link.problem) == (False, "not a Redis")


@asynccontextmanager
async def _with_tls(server: RedisServer, secret: Secret) -> AsyncIterator[str]:
    """Puts TLS before a Redis. Yields the URL."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(secret.certificate, secret.key)
    relay = Relay(f"127.0.0.1:{server.port}")
    async with relay.listening("127.0.0.1", 0, context):
        yield f"rediss://{relay.address}/0"


async def test_redis_with_a_certificate_of_the_given_ca_is_used(redis_server: RedisServer, tmp_path: Path) -> None:
    secret = Authority().issue(tmp_path, loopback=True)
    async with (
        _with_tls(redis_server, secret) as url,
        started_link(url, TLS_TIMEOUT_S, ca_file=secret.ca) as link,
    ):
        assert (link.available, link.problem) == (True, "")
        assert await link.run("SET", "a", 1) is True


@pytest.mark.parametrize("case", ["of another CA", "for another name", "of a CA that the system does not know"])
async def test_certificate_that_is_refused_is_named(redis_server: RedisServer, tmp_path: Path, case: str) -> None:
    secret = Authority().issue(tmp_path, loopback=case != "for another name")
    other = Authority().issue(tmp_path / "other")
    ca_file = {"of another CA": other.ca, "of a CA that the system does not know": None}.get(case, secret.ca)
    async with (
        _with_tls(redis_server, secret) as url,
        started_link(url, TLS_TIMEOUT_S, ca_file=ca_file) as link,
    ):
        assert (link.available, link.problem) == (False, "certificate refused")


async def test_ca_file_that_is_replaced_is_read_again(redis_server: RedisServer, tmp_path: Path) -> None:
    secret = Authority().issue(tmp_path, loopback=True)
    wrong = Authority().issue(tmp_path / "wrong").ca
    async with (
        _with_tls(redis_server, secret) as url,
        started_link(url, TLS_TIMEOUT_S, ca_file=wrong) as link,
    ):
        assert link.problem == "certificate refused"
        wrong.write_bytes(secret.ca.read_bytes())
        await until_available(link, limit_s=10)


async def test_nobody_at_the_address_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with started_link(f"redis://127.0.0.1:{taken.getsockname()[1]}/0") as link:
            assert (link.available, link.problem) == (False, "unreachable")


async def test_command_that_redis_refuses_spoils_no_other_and_not_the_link(redis_server: RedisServer) -> None:
    async with started_link(redis_server.url) as link:
        replies = await link.run_all([("SET", "a", 1), ("HGETALL", "a"), ("GET", "a")])

        assert replies == [True, Refused(), b"1"]
        assert (link.available, link.num_failures) == (True, 0)


async def test_many_commands_at_once_share_round_trips_and_keep_their_order(redis_server: RedisServer) -> None:
    async with started_link(redis_server.url) as link:
        replies = await link.run_all([("RPUSH", "list", number) for number in range(500)])

        assert replies == list(range(1, 501))
        assert await link.run("LRANGE", "list", 0, -1) == [str(number).encode() for number in range(500)]
        assert link.num_commands < 10


async def test_large_commands_are_divided_over_round_trips(redis_server: RedisServer) -> None:
    async with started_link(redis_server.url) as link:
        await link.run_all([("SET", f"key{number}", b"x" * 100_000) for number in range(30)])

        assert 5 <= link.num_commands <= 15


async def test_request_waits_no_longer_than_the_timeout_for_a_redis_that_hangs(redis_server: RedisServer) -> None:
    timeout_s = 0.2
    async with started_link(redis_server.url, timeout_s) as link:
        os.kill(redis_server.pid, signal.SIGSTOP)

        async def timed(delay_s: float) -> float:
            await asyncio.sleep(delay_s)
            start = time.monotonic()
            assert await link.run("GET", "a") is None
            return time.monotonic() - start

        waits_s = await asyncio.gather(*[timed(number / 1000) for number in range(300)])
        os.kill(redis_server.pid, signal.SIGCONT)

        # Room for a busy machine, and less than two timeouts.
        assert max(waits_s) < timeout_s * 1.9
        # Those that came after the first had failed.
        assert min(waits_s) < timeout_s / 4
        assert link.num_failures == 1


def _keep_busy(seconds: float) -> None:
    time.sleep(seconds)


async def test_event_loop_that_is_busy_isnt_redis_that_is_slow(redis_server: RedisServer) -> None:
    timeout_s = 0.25
    async with started_link(redis_server.url, timeout_s) as link:
        await until_available(link, limit_s=10)
        failures = link.num_failures
        for number in range(5):
            writing = asyncio.create_task(link.run_all([("SET", "a", number)]))
            # Until the command is on its way.
            for _ in range(5):
                await asyncio.sleep(0)
            assert link.num_commands == number + 1
            _keep_busy(timeout_s * 1.5)
            assert await writing == [True]

        assert link.num_failures == failures


async def test_redis_killed_and_restarted_in_use_raises_nothing_and_is_used_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "services.orchestrator")
    stop = asyncio.Event()
    slowest_s = 0.0

    async def use(index: PrefixIndex, request_id: str) -> None:
        nonlocal slowest_s
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: record(index, "slm", "a", PROMPT, 100),
            lambda: index.lookup(PROMPT),
            lambda: append(index, request_id),
        ]
        while not stop.is_set():
            for call in calls:
                start = time.monotonic()
                await call()
                slowest_s = max(slowest_s, time.monotonic() - start)
            await asyncio.sleep(0.005)

    with RedisServer() as server:
        async with started_index(server.url.replace("//", "//default:secret@")) as index:
            users = [asyncio.create_task(use(index, f"r{number}")) for number in range(16)]
            await asyncio.sleep(0.2)
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.sleep(0.5)
            assert not index.available
            assert index.num_failures >= 1
            commands = index.num_commands

            with RedisServer(server.port):
                await until_available(index, limit_s=10)
                await asyncio.sleep(0.2)
                assert index.num_commands > commands
                assert await index.lookup(PROMPT) == PrefixHits(slm={"a": 96})
                stop.set()
                await asyncio.gather(*users)

    assert slowest_s < CALL_LIMIT_S
    messages = [record.getMessage() for record in caplog.records]
    assert sum("is away: unreachable" in message for message in messages) == 1
    assert sum("answers again" in message for message in messages) == 1
    assert "secret" not in caplog.text


async def test_redis_that_hangs_bounds_every_call_and_mixes_up_no_replies(redis_server: RedisServer) -> None:
    async with started_index(redis_server.url) as index:
        await record(index, "slm", "a", PROMPT, 96)
        await append(index, "r")

        failures = index.num_failures
        os.kill(redis_server.pid, signal.SIGSTOP)
        start = time.monotonic()
        hits = await asyncio.gather(*[index.lookup(PROMPT) for _ in range(40)])
        first_s = time.monotonic() - start
        slowest_s = await assert_knows_nothing(index)
        commands = index.num_commands
        await index.lookup(PROMPT)
        commands_while_open = index.num_commands - commands
        os.kill(redis_server.pid, signal.SIGCONT)

        assert hits == [PrefixHits()] * 40
        assert first_s < CALL_LIMIT_S
        assert slowest_s < CALL_LIMIT_S
        assert commands_while_open == 0
        assert index.num_failures == failures + 1
        await until_available(index, limit_s=10)
        lookups = asyncio.gather(*[index.lookup(PROMPT) for _ in range(20)])
        log = await index.read_log("r", b"f", 10)
        assert await lookups == [PrefixHits(slm={"a": 96})] * 20
        assert log is not None
        assert log.tokens == tuple(TOKENS)


async def test_redis_that_comes_late_is_found() -> None:
    with RedisServer() as server:
        port = server.port
    async with started_index(f"redis://127.0.0.1:{port}/0") as index:
        assert not index.available
        with RedisServer(port):
            await until_available(index, limit_s=10)
            await record(index, "slm", "a", PROMPT, 96)
            assert await index.lookup(PROMPT) == PrefixHits(slm={"a": 96})


async def test_call_cancelled_in_flight_leaves_the_index_in_use(redis_server: RedisServer) -> None:
    async with started_index(redis_server.url) as index:
        await record(index, "slm", "a", PROMPT, 96)
        for number in range(20):
            call = asyncio.create_task(index.lookup(PROMPT))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

        assert await index.lookup(PROMPT) == PrefixHits(slm={"a": 96})
        assert index.num_failures == 0


async def test_link_closed_in_use_answers_nothing(redis_server: RedisServer) -> None:
    async with started_link(redis_server.url) as link:
        os.kill(redis_server.pid, signal.SIGSTOP)
        calls = [asyncio.create_task(link.run("GET", "a")) for _ in range(3)]
        await asyncio.sleep(0)
        await link.close()
        os.kill(redis_server.pid, signal.SIGCONT)

        assert await asyncio.gather(*calls) == [None] * 3
        assert await link.run("GET", "a") is None


async def test_link_outlives_a_fault_that_nobody_thought_of(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with started_link(redis_server.url) as link:

        async def fail(*_arguments: object, **_options: object) -> None:
            raise LookupError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "execute", fail)
            assert await link.run_all([("GET", "a")]) == [None]
            assert not link.available
        await until_available(link, limit_s=10)

        assert await link.run("SET", "a", 1) is True
    assert "failed unexpectedly" in caplog.text
    assert "a bug" in caplog.text


async def test_link_without_a_redis_that_it_understands_starts_all_the_same() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"*1\r\n" * 100_000)
        await writer.drain()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with started_link(f"redis://127.0.0.1:{port}/0") as link:
            assert (link.available, link.problem) == (False, "not a Redis")
