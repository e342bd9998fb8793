from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from trivium.v1 import router_pb2, router_pb2_grpc

from services.common.serving.channels import open_channel, server_options
from services.common.serving.tls import ChannelTls, LivePem, Pem, TlsFiles, server_credentials
from tests.certificates import SERVER_NAME, Authority, Secret
from tests.serving import read

OLD, NEW = Authority(), Authority()
BOTH = OLD.pem + NEW.pem


class _Echo(router_pb2_grpc.RouterServiceServicer):
    """Echoes batch ids, and tells the common name of its client's certificate."""

    def __init__(self) -> None:
        self.client_names: list[str] = []

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Score(
        self, requests: AsyncIterator[router_pb2.ScoreRequest], context: Any
    ) -> AsyncIterator[router_pb2.ScoreResponse]:
        names = context.auth_context().get("x509_common_name", [b""])
        self.client_names.append(names[0].decode())
        async for request in requests:
            yield router_pb2.ScoreResponse(batch_id=request.batch_id)


@asynccontextmanager
async def _serving(files: TlsFiles | None) -> AsyncIterator[tuple[str, _Echo]]:
    server = grpc.aio.server(options=server_options())
    echo = _Echo()
    router_pb2_grpc.add_RouterServiceServicer_to_server(echo, server)
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, server_credentials(files)) if files else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", echo
    finally:
        await server.stop(0)


def _server(secret: Secret, *, mutual: bool = True) -> TlsFiles:
    return TlsFiles(secret.certificate, secret.key, secret.ca if mutual else None, "tls_client_ca_file")


def _client(secret: Secret, *, known: bool = True, server_name: str | None = SERVER_NAME) -> ChannelTls:
    files = TlsFiles(secret.certificate, secret.key, secret.ca) if known else TlsFiles(None, None, secret.ca)
    return ChannelTls(files, server_name)


async def _echoed(channel: grpc.aio.Channel, call: Any = None) -> Any:
    """Sends a message over a stream, a new one if None, and waits for it to come back. Returns the stream."""
    call = call or router_pb2_grpc.RouterServiceStub(channel).Score()
    await call.write(router_pb2.ScoreRequest(batch_id=7))
    assert (await read(call)).batch_id == 7
    return call


async def _refused(address: str, tls: ChannelTls | None) -> bool:
    async with open_channel(address, tls=tls) as channel:
        call = router_pb2_grpc.RouterServiceStub(channel).Score()
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False


async def test_peers_with_certificates_of_one_ca_talk(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path)
    async with _serving(_server(secret)) as (address, echo), open_channel(address, tls=_client(secret)) as channel:
        await _echoed(channel)
        assert echo.client_names[0].startswith("test ")


@pytest.mark.parametrize(
    "client", ["plain text", "no certificate", "certificate of another CA", "distrusts the server"]
)
async def test_a_client_that_may_not_connect_is_refused(tmp_path: Path, client: str) -> None:
    secret = OLD.issue(tmp_path / "server")
    kinds: dict[str, Callable[[], ChannelTls | None]] = {
        "plain text": lambda: None,
        "no certificate": lambda: _client(secret, known=False),
        "certificate of another CA": lambda: _client(NEW.issue(tmp_path / "other", trusted=OLD.pem)),
        "distrusts the server": lambda: _client(OLD.issue(tmp_path / "distrusting", trusted=NEW.pem)),
    }
    async with _serving(_server(secret)) as (address, _):
        assert await _refused(address, kinds[client]())


async def test_a_server_without_client_ca_takes_clients_without_certificate(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path)
    async with _serving(_server(secret, mutual=False)) as (address, _):
        async with open_channel(address, tls=_client(secret, known=False)) as channel:
            await _echoed(channel)
        assert await _refused(address, None)


async def test_a_plain_server_is_refused_by_a_client_with_tls(tmp_path: Path) -> None:
    async with _serving(None) as (address, _):
        assert await _refused(address, _client(OLD.issue(tmp_path)))


async def test_without_a_server_name_the_certificate_has_to_be_for_the_address(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path)
    async with _serving(_server(secret)) as (address, _):
        assert await _refused(address, _client(secret, server_name=None))
    secret = OLD.issue(tmp_path, loopback=True)
    async with (
        _serving(_server(secret)) as (address, _),
        open_channel(address, tls=_client(secret, server_name=None)) as channel,
    ):
        await _echoed(channel)


async def test_rotation_keeps_streams_and_new_connections_of_the_same_channel_use_the_new_files(
    tmp_path: Path,
) -> None:
    server, client = OLD.issue(tmp_path / "server"), OLD.issue(tmp_path / "client")
    async with _serving(_server(server)) as (address, echo), open_channel(address, tls=_client(client)) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        running = await _echoed(channel, stub.Score())
        # Both sides at once, to a CA that doesn't know the old one: nothing old can connect any more.
        NEW.issue(server.directory)
        NEW.issue(client.directory)
        after = await _echoed(channel, stub.Score())
        await _echoed(channel, running)
        assert len(set(echo.client_names)) == 2
        assert await _refused(address, _client(OLD.issue(tmp_path / "late", trusted=BOTH)))
        running.cancel()
        after.cancel()


async def test_a_bad_new_file_leaves_the_old_ones_in_use_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = OLD.issue(tmp_path)
    async with _serving(_server(secret)) as (address, _):
        tls = _client(secret)
        secret.key.write_bytes(OLD.issue(tmp_path / "other").key.read_bytes())
        for _ in range(2):
            async with open_channel(address, tls=tls) as channel:
                await _echoed(channel)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    # Once by each side.
    assert len(told) == 2
    assert all("tls_key_file" in message and "BEGIN" not in message for message in told)


async def test_calls_before_a_renewal_end_with_their_channel(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path)
    async with _serving(_server(secret)) as (address, _):
        channel = open_channel(address, tls=_client(secret))
        running = await _echoed(channel)
        OLD.issue(tmp_path)
        await _echoed(channel)
        await channel.close()
        assert await running.code() is grpc.StatusCode.CANCELLED


def test_refresh_tells_only_of_new_content(tmp_path: Path) -> None:
    secret = OLD.issue(tmp_path)
    live = LivePem(_server(secret))
    first = live.pem
    assert not live.refresh()
    secret.ca.write_bytes(secret.ca.read_bytes())
    assert not live.refresh()
    secret.ca.unlink()
    assert not live.refresh()
    assert live.pem == first
    secret.ca.write_bytes(BOTH)
    assert live.refresh()
    assert live.pem == Pem(first.certificate, first.key, BOTH)


def _with_password(secret: Secret) -> None:
    key = serialization.load_pem_private_key(secret.key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    secret.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )


@pytest.mark.parametrize(
    ("damage", "setting"),
    [
        (lambda secret: secret.certificate.unlink(), "tls_cert_file"),
        (lambda secret: secret.certificate.write_text("no certificate"), "tls_cert_file"),
        (lambda secret: secret.certificate.write_bytes(b"\xff\xfe"), "tls_cert_file"),
        (lambda secret: secret.key.unlink(), "tls_key_file"),
        (lambda secret: secret.key.write_text(""), "tls_key_file"),
        (_with_password, "tls_key_file"),
        (lambda secret: secret.ca.unlink(), "tls_client_ca_file"),
        (lambda secret: secret.ca.write_text(""), "tls_client_ca_file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_by_its_setting(tmp_path: Path, damage: Any, setting: str) -> None:
    secret = OLD.issue(tmp_path)
    damage(secret)
    with pytest.raises(ValueError, match=f"^{setting}: "):
        _server(secret).load()


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_half_an_identity_is_refused_by_the_setting_that_is_missing(tmp_path: Path, missing: str) -> None:
    secret = OLD.issue(tmp_path)
    paths = {"certificate": secret.certificate, "key": secret.key, missing: None}
    setting = {"certificate": "tls_cert_file", "key": "tls_key_file"}[missing]
    with pytest.raises(ValueError, match=f"^{setting}: "):
        TlsFiles(paths["certificate"], paths["key"], None).load()
