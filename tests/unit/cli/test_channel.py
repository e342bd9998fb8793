"""How commands reach services, as the environment says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli import channel
from services.cli.ask.client import OrchestratorClient
from services.cli.errors import CliError
from services.cli.pair.probe import probe
from services.client import text_request
from services.common.serving.tls import TlsFiles
from tests.certificates import SERVER_NAME, Authority, Secret
from tests.unit.cli.fakes import FakeOrchestrator, serving_orchestrator
from tests.unit.gateway.scripted import serving

AUTHORITY = Authority()


@pytest.fixture(autouse=True)
def _of_no_pair() -> Iterator[None]:
    channel._of_its_own.clear()
    yield
    channel._of_its_own.clear()


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return AUTHORITY.issue(tmp_path)


def _name(monkeypatch: pytest.MonkeyPatch, secret: Secret) -> None:
    for name, value in (
        ("CA_FILE", secret.ca),
        ("CERT_FILE", secret.certificate),
        ("KEY_FILE", secret.key),
        ("SERVER_NAME", SERVER_NAME),
    ):
        monkeypatch.setenv(f"TRIVIUM_TLS_{name}", str(value))


def _files(secret: Secret) -> TlsFiles:
    return TlsFiles(secret.certificate, secret.key, secret.ca, "tls_client_ca_file")


def test_command_reaches_an_orchestrator_with_mtls_and_shows_its_key(
    secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    _name(monkeypatch, secret)
    monkeypatch.setenv("TRIVIUM_API_KEY", "tvm_x")
    fake = FakeOrchestrator()
    with serving_orchestrator(fake, _files(secret)) as address:
        found = probe("orchestrator", address, timeout_s=20)
        assert (found.health, found.error) == ("SERVING", "")
        with OrchestratorClient(address) as client:
            assert client.complete(text_request("x")).text
    assert set(fake.keys) == {"Bearer tvm_x"}


def test_command_without_tls_does_not_reach_an_orchestrator_with_it(secret: Secret) -> None:
    with serving_orchestrator(FakeOrchestrator(), _files(secret)) as address:
        assert probe("orchestrator", address, timeout_s=5).health == "UNREACHABLE"


def test_command_with_a_pair_of_its_own_talks_in_plain_text_without_a_key(
    secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    _name(monkeypatch, secret)
    monkeypatch.setenv("TRIVIUM_API_KEY", "tvm_x")
    channel.talk_to_own_pair()
    fake = FakeOrchestrator()
    with serving_orchestrator(fake) as address:
        assert probe("orchestrator", address, timeout_s=20).error == ""
    assert fake.keys == [None]


def test_variable_that_cannot_be_used_is_an_error_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_TLS_CA_FILE", "/none/ca.crt")
    with pytest.raises(CliError, match=r"^TRIVIUM_TLS_CA_FILE: /none/ca\.crt can't be read"):
        channel.connection()


def test_half_of_the_variables_is_an_error_with_the_missing_name(
    secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    _name(monkeypatch, secret)
    monkeypatch.delenv("TRIVIUM_TLS_KEY_FILE")
    with pytest.raises(CliError, match=r"^TRIVIUM_TLS_KEY_FILE: it is missing"):
        channel.connection()


async def test_gateway_with_https_is_asked_with_the_tls_of_the_environment(
    secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"https_cert_file": secret.certificate, "https_key_file": secret.key, "https_client_ca_file": secret.ca}
    async with serving(None, **files) as running:
        address = f"127.0.0.1:{running.port}"
        plain = await asyncio.to_thread(probe, "gateway", address)
        unknown = await asyncio.to_thread(probe, "gateway", f"https://{address}")
        _name(monkeypatch, secret)
        known = await asyncio.to_thread(probe, "gateway", f"https://{address}")
    assert (plain.health, plain.error) == ("NOT_SERVING", "this port takes HTTPS alone")
    assert unknown.health == "UNREACHABLE"
    assert "certificate verify failed" in unknown.error
    assert (known.health, known.error) == ("NOT_SERVING", "no orchestrator has answered yet")
