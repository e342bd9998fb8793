"""A pair whose services talk over mTLS: it answers, lets nobody else in, and goes on while certificates change."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from evaluation.reference.pair import WEIGHTS_DIR
from services.client import AsyncClient, Options, chat_request
from services.common.serving.channels import open_channel
from services.common.serving.tls import ChannelTls, TlsFiles
from tests.certificates import SERVER_NAME, Authority, Secret
from tests.integration.gateway.door import PATHS, TIMEOUT_S, Gateway
from tests.integration.harness.forked import fork
from tests.integration.harness.processes import START_TIMEOUT_S, Process
from tests.ports import free_port
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SERVICES = ("slm", "router", "llm", "orchestrator")
ALL = (*SERVICES, "gateway")
OPENINGS = {
    "h2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "http/1.1": b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n",
}
"""What a client says first, by protocol; it is answered."""
QUESTION = chat_request("Ann starts with 24 stones. She buys 6 stones. How many has she?", Options(max_new_tokens=24))


class SecuredPair:
    """The four services and a gateway, each with a Secret of its own, and one for clients."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority()
        self._directory = directory
        self._health_ports = {name: free_port() for name in SERVICES}
        self.secrets = {name: self.authority.issue(directory / "secrets" / name) for name in (*ALL, "client")}
        self.processes: dict[str, Process] = {}

    @property
    def tls(self) -> ChannelTls:
        return channel_tls(self.secrets["client"])

    async def start(self) -> None:
        for name, module in (("slm", "services.slm"), ("llm", "services.llm")):
            self.launch(name, module, "--model", str(WEIGHTS_DIR / name))
        router = ("--checkpoint", str(WEIGHTS_DIR / "router"), "--slm-model", str(WEIGHTS_DIR / "slm"))
        self.launch("router", "router_service", *router)
        for process in self.processes.values():
            await process.until_listening()
        peers = [part for name in ("slm", "router", "llm") for part in (f"--{name}", self.processes[name].target)]
        tokenizer = ("--tokenizer", str(WEIGHTS_DIR / "slm"))
        self.launch(
            "orchestrator", "services.orchestrator", *peers, *tokenizer, *self.secrets["orchestrator"].client_flags
        )
        for name in SERVICES:
            await self.until_serving(name)
        secret = self.secrets["gateway"]
        flags = (*secret.https_flags, *secret.identity_flags, *secret.client_flags)
        target = self.processes["orchestrator"].target
        gateway = Gateway(target, *flags, directory=self._directory / "gateway", health_port=free_port())
        self.processes["gateway"] = gateway
        await gateway.until_healthy()

    def launch(self, name: str, module: str, *arguments: str) -> None:
        health = ("--health-port", str(self._health_ports[name]))
        flags = (*self.secrets[name].server_flags, *health, *arguments)
        self.processes[name] = Process(module, *flags, directory=self._directory / name, launch=fork)

    async def until_serving(self, name: str) -> None:
        """Waits until the plain health port says so, as a kubelet does."""
        async with open_channel(f"127.0.0.1:{self._health_ports[name]}") as channel:
            process = self.processes[name]
            await process.until_listening()
            await until(lambda: process.is_serving(channel), START_TIMEOUT_S)

    async def stop(self) -> None:
        await asyncio.gather(*(process.stop() for process in self.processes.values()))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredPair]:
    pair = SecuredPair(tmp_path_factory.mktemp("secured"))
    try:
        asyncio.run(pair.start())
        yield pair
    finally:
        asyncio.run(pair.stop())


def channel_tls(secret: Secret, *, known: bool = True) -> ChannelTls:
    files = TlsFiles(secret.certificate, secret.key, secret.ca) if known else TlsFiles(None, None, secret.ca)
    return ChannelTls(files, SERVER_NAME)


def https_tls(secret: Secret, *, known: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=secret.ca)
    # Its name is checked elsewhere; clients here call an address.
    context.check_hostname = False
    if known:
        context.load_cert_chain(secret.certificate, secret.key)
    return context


def asking(pair: SecuredPair) -> AsyncClient:
    return AsyncClient(pair.processes["orchestrator"].target, open_channel=partial(open_channel, tls=pair.tls))


async def test_pair_with_mtls_between_all_services_answers(secured: SecuredPair) -> None:
    async with asking(secured) as client:
        assert len((await client.complete(QUESTION)).tokens) == 24


async def test_gateway_answers_over_https_and_reaches_orchestrators_over_mtls(secured: SecuredPair) -> None:
    body = {"prompt": "Ann starts with", "max_tokens": 8}
    async with httpx.AsyncClient(verify=https_tls(secured.secrets["client"]), timeout=TIMEOUT_S) as http:
        answered = await http.post(f"https://{secured.processes['gateway'].target}{PATHS['text']}", json=body)
    assert answered.status_code == 200, answered.text
    assert answered.json()["usage"]["completion_tokens"] <= 8


@pytest.mark.parametrize("caller", ["plain text", "no certificate", "another CA"])
@pytest.mark.parametrize("service", SERVICES)
async def test_service_refuses_who_has_no_certificate_of_its_ca(
    secured: SecuredPair, service: str, caller: str, tmp_path: Path
) -> None:
    stranger = Authority().issue(tmp_path, trusted=secured.authority.pem)
    tls = {
        "plain text": None,
        "no certificate": channel_tls(secured.secrets["client"], known=False),
        "another CA": channel_tls(stranger),
    }[caller]
    target = secured.processes[service].target

    assert await _health_code(target, secured.tls) is grpc.StatusCode.OK
    assert await _health_code(target, tls) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("service", ALL)
async def test_openssl_is_let_in_with_a_certificate_alone(secured: SecuredPair, service: str) -> None:
    target, client = secured.processes[service].target, secured.secrets["client"]
    identity = ("-cert", str(client.certificate), "-key", str(client.key))

    protocol = "http/1.1" if service == "gateway" else "h2"
    assert await _openssl(target, protocol, client.ca, *identity)
    assert not await _openssl(target, protocol, client.ca)


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="needs grpcurl")
@pytest.mark.parametrize("service", ALL)
async def test_grpcurl_is_let_in_with_a_certificate_alone(secured: SecuredPair, service: str) -> None:
    target, client = secured.processes[service].target, secured.secrets["client"]
    command = ("grpcurl", "-cacert", str(client.ca), "-servername", SERVER_NAME, "-max-time", "20")
    identity = ("-cert", str(client.certificate), "-key", str(client.key))

    # The gateway lets it in, too, but speaks no gRPC.
    assert ((await _code(*command, *identity, target, "list")) == 0) == (service in SERVICES)
    assert await _code(*command, target, "list") != 0


@pytest.mark.parametrize("caller", ["no certificate", "another CA"])
async def test_gateway_refuses_who_has_no_certificate_of_its_ca(
    secured: SecuredPair, caller: str, tmp_path: Path
) -> None:
    stranger = Authority().issue(tmp_path, trusted=secured.authority.pem)
    client = secured.secrets["client"]
    tls = {"no certificate": https_tls(client, known=False), "another CA": https_tls(stranger)}[caller]

    assert await _live(secured, https_tls(client))
    assert not await _live(secured, tls)


async def test_gateway_tells_who_speaks_plain_http_what_to_do(secured: SecuredPair) -> None:
    async with httpx.AsyncClient() as http:
        refused = await http.post(f"http://{secured.processes['gateway'].target}{PATHS['chat']}", json={})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "this port takes HTTPS alone"


async def test_health_port_answers_nothing_but_health(secured: SecuredPair) -> None:
    async with open_channel(f"127.0.0.1:{secured._health_ports['slm']}") as channel:
        call: Any = channel.unary_unary("/trivium.v1.SlmService/GetServerInfo")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_certificates_and_ca_are_replaced_under_traffic_without_a_failed_stream(
    secured: SecuredPair, tmp_path: Path
) -> None:
    stopping = asyncio.Event()
    num_answers = num_https = 0

    async def ask() -> None:
        nonlocal num_answers
        # One attempt for each: a client that retries would hide a failure.
        async with asking(secured) as client:
            client._retry_s = 0.0
            while not stopping.is_set():
                assert len((await client.complete(QUESTION)).tokens) == 24
                num_answers += 1

    async def ask_over_https() -> None:
        nonlocal num_https
        body = {"prompt": "Ann starts with", "max_tokens": 24, "temperature": 0, "stream": True}
        url = f"https://{secured.processes['gateway'].target}"
        while not stopping.is_set():
            async with httpx.AsyncClient(verify=https_tls(secured.secrets["client"]), timeout=TIMEOUT_S) as http:
                for _ in range(3):
                    answer = await http.post(f"{url}{PATHS['text']}", json=body)
                    assert answer.text.endswith("data: [DONE]\n\n"), answer.text
                    num_https += 1

    async def more_answers(number: int) -> None:
        wanted = num_answers + number, num_https + number
        await until(
            lambda: (num_answers >= wanted[0] and num_https >= wanted[1]) or any(one.done() for one in asked),
            timeout_s=120,
        )
        for one in asked:
            if one.done():
                one.result()

    late = secured.authority.issue(tmp_path)
    new = Authority()
    asked = [asyncio.create_task(ask()) for _ in range(3)]
    asked += [asyncio.create_task(ask_over_https()) for _ in range(3)]
    try:
        await more_answers(3)
        both = secured.authority.pem + new.pem
        for issuer, trusted in ((secured.authority, both), (new, both), (new, new.pem)):
            for secret in secured.secrets.values():
                issuer.issue(secret.directory, trusted=trusted)
            await more_answers(4)
        # Links to replicas that come again are made with the new files.
        async with asking(secured) as client:
            await client.complete(QUESTION)
        for service in SERVICES:
            target = secured.processes[service].target
            assert await _health_code(target, secured.tls) is grpc.StatusCode.OK
            assert await _health_code(target, channel_tls(late)) is grpc.StatusCode.UNAVAILABLE
        assert await _live(secured, https_tls(secured.secrets["client"]))
        late_but_trusting = https_tls(secured.authority.issue(tmp_path, trusted=new.pem))
        assert not await _live(secured, late_but_trusting)
    finally:
        stopping.set()
        await asyncio.gather(*asked)
        secured.authority = new


async def test_link_is_made_anew_with_the_files_of_now(secured: SecuredPair) -> None:
    new = Authority()
    for secret in secured.secrets.values():
        new.issue(secret.directory)
    secured.authority = new
    llm = secured.processes["llm"]
    port = llm.target.rpartition(":")[2]
    await llm.stop()
    secured.launch("llm", "services.llm", "--model", str(WEIGHTS_DIR / "llm"), "--port", port)
    await secured.until_serving("llm")

    async with asking(secured) as client:
        assert len((await client.complete(QUESTION)).tokens) == 24


async def _health_code(target: str, tls: ChannelTls | None) -> grpc.StatusCode:
    async with open_channel(target, tls=tls) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def _live(pair: SecuredPair, tls: ssl.SSLContext) -> bool:
    """Whether the gateway answers a client with such TLS."""
    async with httpx.AsyncClient(verify=tls, timeout=20) as http:
        try:
            answer = await http.get(f"https://{pair.processes['gateway'].target}/live")
        # The reason comes after the handshake, where httpx knows it for no error of its own.
        except (httpx.TransportError, ssl.SSLError):
            return False
    return answer.status_code == 200


async def _code(*command: str) -> int:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return await process.wait()


async def _openssl(target: str, protocol: str, ca: Path, *identity: str) -> bool:
    """Whether a connection stays open and is answered."""
    command = ("openssl", "s_client", "-connect", target, "-alpn", protocol, "-CAfile", str(ca), *identity)
    process = await asyncio.create_subprocess_exec(
        *command, "-ign_eof", "-quiet", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(OPENINGS[protocol])
    try:
        async with asyncio.timeout(20):
            # SETTINGS, or a status; with TLS 1.3, a server that refuses a client says so after the handshake.
            return bool(await process.stdout.read(9))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
