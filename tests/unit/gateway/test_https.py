"""Connections over TLS: who is let in, what others are told, and what changed files do."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from services.gateway.app import create_operations_app
from services.gateway.http_server import create_server, listening_socket
from services.gateway.settings import GatewaySettings
from tests.certificates import SERVER_NAME, Authority, Secret
from tests.unit.gateway.asking import CHAT
from tests.unit.gateway.scripted import QUESTION, RunningGateway, serving

OLD, NEW = Authority(), Authority()
REQUEST = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def secured(secret: Secret, *, mutual: bool = True) -> AsyncIterator[RunningGateway]:
    files = {"https_cert_file": secret.certificate, "https_key_file": secret.key}
    if mutual:
        files["https_client_ca_file"] = secret.ca
    async with serving(None, **files) as running:
        yield running


def client_tls(secret: Secret, *, known: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=secret.ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if known:
        context.load_cert_chain(secret.certificate, secret.key)
    return context


class Connection:
    """A connection on which one request after the other may be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.tls: ssl.SSLObject = writer.get_extra_info("ssl_object")

    @classmethod
    async def open(cls, running: RunningGateway, context: ssl.SSLContext) -> Connection:
        streams = asyncio.open_connection("127.0.0.1", running.port, ssl=context, server_hostname=SERVER_NAME)
        return cls(*await streams)

    async def answers(self) -> bool:
        self._writer.write(REQUEST)
        async with asyncio.timeout(10):
            return (await _response(self._reader)).startswith(b"HTTP/1.1 200")

    def close(self) -> None:
        self._writer.transport.abort()


async def is_answered(running: RunningGateway, context: ssl.SSLContext) -> bool:
    connection = await Connection.open(running, context)
    try:
        return await connection.answers()
    finally:
        connection.close()


async def plainly(running: RunningGateway, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(data)
    try:
        async with asyncio.timeout(10):
            return await _response(reader)
    finally:
        writer.close()


async def _response(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def test_answer_over_tls_is_the_one_in_plain_text(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path, loopback=True)
    async with serving() as running:
        plain = (await running.http.post(CHAT, json=QUESTION)).json()
    async with secured(secret) as running:
        url = f"https://127.0.0.1:{running.port}"
        async with httpx.AsyncClient(base_url=url, verify=client_tls(secret)) as http:
            answer = await http.post(CHAT, json=QUESTION | {"stream": True})
            whole = (await http.post(CHAT, json=QUESTION)).json()
    assert whole["choices"] == plain["choices"]
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_client_that_offers_http2_as_well_gets_what_is_spoken(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path)
    async with secured(secret) as running:
        connection = await Connection.open(running, client_tls(secret))
        assert connection.tls.selected_alpn_protocol() == "http/1.1"
        connection.close()


async def test_without_a_client_ca_any_client_is_answered(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path)
    async with secured(secret, mutual=False) as running:
        assert await is_answered(running, client_tls(secret, known=False))


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (lambda path, secret: client_tls(secret, known=False), "CERTIFICATE_REQUIRED"),
        (lambda path, secret: client_tls(NEW.issue(path / "other", trusted=OLD.pem)), "UNKNOWN_CA"),
    ],
    ids=["no certificate", "another CA"],
)
async def test_client_that_may_not_connect_is_told_why(
    tmp_path: Path, client: Callable[[Path, Secret], ssl.SSLContext], reason: str
) -> None:
    secret = OLD.issue(tmp_path / "server")
    async with secured(secret) as running:
        with pytest.raises(ssl.SSLError, match=reason):
            await is_answered(running, client(tmp_path, secret))
        assert await is_answered(running, client_tls(secret))


@pytest.mark.parametrize("line", ["GET / HTTP/1.1", f"POST {CHAT} HTTP/1.1", "CONNECT example.com:443 HTTP/1.1"])
async def test_plain_http_is_refused_with_the_reason(tmp_path: Path, line: str) -> None:
    async with secured(OLD.issue(tmp_path)) as running:
        answer = await plainly(running, f"{line}\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["message"] == "this port takes HTTPS alone"


async def test_changed_files_are_those_of_new_connections_and_leave_old_ones_alone(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path / "server")
    late = client_tls(OLD.issue(tmp_path / "late", trusted=OLD.pem + NEW.pem))
    async with secured(secret) as running:
        before = await Connection.open(running, client_tls(secret))
        assert await before.answers()
        NEW.issue(secret.directory)
        after = await Connection.open(running, client_tls(secret))
        assert await after.answers()
        assert await before.answers()
        assert before.tls.getpeercert() != after.tls.getpeercert()
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            await is_answered(running, late)
        before.close()
        after.close()


async def test_session_of_a_client_that_is_trusted_no_more_is_not_resumed(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path / "server")
    context = client_tls(secret)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with secured(secret) as running:
        first = await Connection.open(running, context)
        assert await first.answers()
        NEW.issue(secret.directory)
        context.load_verify_locations(secret.ca)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        resuming = context.wrap_bio(incoming, outgoing, server_hostname=SERVER_NAME, session=first.tls.session)
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            await _shake_hands(running, resuming, incoming, outgoing)
        first.close()


async def _shake_hands(
    running: RunningGateway, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await asyncio.wait_for(reader.read(65536), 10))
            else:
                return
    finally:
        writer.close()


async def test_file_that_cannot_be_used_leaves_the_old_ones_in_use(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path)
    context = client_tls(secret)
    async with secured(secret) as running:
        secret.key.write_text("no key")
        assert await is_answered(running, context)


def _settings(**files: Any) -> GatewaySettings:
    return GatewaySettings(orchestrator=("none:1",), **files)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("https_cert_file",), "https_key_file: it is missing"),
        (("https_key_file",), "https_cert_file: it is missing"),
        (("https_client_ca_file",), "https_cert_file: it is missing"),
    ],
)
def test_setting_that_lacks_another_is_refused_by_its_name(
    tmp_path: Path, settings: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        _settings(**dict.fromkeys(settings, tmp_path / "file"))


def test_file_that_cannot_be_used_is_refused_by_its_setting(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path / "one")
    other = OLD.issue(tmp_path / "other")
    with pytest.raises(ValidationError, match=r"https_key_file: .* isn't the key of"):
        _settings(https_cert_file=secret.certificate, https_key_file=other.key)


@pytest.mark.parametrize(
    ("path", "status"), [("/live", 200), ("/health", 503), ("/metrics", 200), ("/v1/models", 404), ("/", 404)]
)
async def test_health_port_answers_operators_alone(path: str, status: int) -> None:
    async with serving() as running:
        listener = listening_socket("127.0.0.1", 0)
        server = create_server(create_operations_app(running.gateway), header_timeout_s=15)
        task = asyncio.create_task(server.serve([listener]))
        async with httpx.AsyncClient() as http:
            response = await http.get(f"http://127.0.0.1:{listener.getsockname()[1]}{path}")
        server.should_exit = True
        await task
    assert response.status_code == status
