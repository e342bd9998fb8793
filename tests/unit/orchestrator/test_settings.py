from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.common.serving.call_limits import MAX_READING, CallLimits
from services.common.serving.settings import read_settings
from services.orchestrator.settings import OrchestratorSettings
from tests.certificates import Authority


def _settings(**fields: Any) -> OrchestratorSettings:
    defaults: dict[str, Any] = {
        "slm": "slm:1",
        "router": "router:2",
        "llm": "10.0.0.1:3,[fd00::1]:3",
        "tokenizer": "t",
    }
    return OrchestratorSettings(**(defaults | fields))


def test_addresses_may_be_names_and_ip_addresses() -> None:
    assert _settings().llm == ("10.0.0.1:3", "[fd00::1]:3")


@pytest.mark.parametrize("field", ["slm", "router", "llm"])
@pytest.mark.parametrize("value", ["here", "here:0", "http://here:80", "ok:1,bad"])
def test_address_that_makes_no_sense_is_refused_by_the_name_of_its_setting(field: str, value: str) -> None:
    with pytest.raises(ValidationError) as raised:
        _settings(**{field: value})
    (problem,) = raised.value.errors()
    assert problem["loc"] == (field,)
    assert "host:port" in problem["msg"]


def test_calls_are_limited_to_all_places_and_those_that_are_being_read() -> None:
    limits = _settings(max_active_requests=3, max_waiting_requests=4, default_deadline_s=5).call_limits
    assert limits == CallLimits(max_calls=3 + 4 + MAX_READING, default_deadline_s=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("discovery_interval_s", 0),
        ("llm_grace_s", -1),
        ("max_active_requests", 0),
        ("max_waiting_requests", -1),
        ("default_deadline_s", -1),
    ],
)
def test_bound_that_makes_no_sense_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        _settings(**{field: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no redis_url"),
        ({"redis_url": "redis://:secret@redis:6379/0"}, "give one of both"),
    ],
)
def test_redis_password_without_a_url_that_it_is_for_is_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _settings(redis_password="secret", **fields)


def test_settings_that_do_not_fit_together_are_told_without_their_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SLM": "s:1",
        "ROUTER": "r:2",
        "LLM": "l:3",
        "TOKENIZER": "t",
        "REDIS_PASSWORD": "secret",
    }.items():
        monkeypatch.setenv(f"TRIVIUM_ORCHESTRATOR_{name}", value)
    with pytest.raises(SystemExit):
        read_settings(OrchestratorSettings, prog="orchestrator", example="", argv=[])
    written = capsys.readouterr().err
    assert "redis_password: there is no redis_url" in written
    assert "secret" not in written


def test_replicas_are_called_with_tls_where_there_is_a_ca(tmp_path: Path) -> None:
    secret = Authority().issue(tmp_path)
    assert _settings().channel_tls is None
    # The orchestrator's own door may have a certificate, and its replicas none.
    assert _settings(tls_cert_file=secret.certificate, tls_key_file=secret.key).channel_tls is None
    assert _settings(tls_ca_file=secret.ca).channel_tls is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tls_server_name": "trivium"}, "tls_ca_file: it is missing"),
        ({"tls_ca_file": "/none/ca.crt"}, "tls_ca_file: /none/ca.crt can't be read"),
        ({"redis_url": "redis://r", "redis_ca_file": "/none/ca.crt"}, "redis_ca_file: there is no rediss://"),
        ({"redis_ca_file": "/none/ca.crt"}, "redis_ca_file: there is no rediss://"),
        ({"redis_url": "rediss://r", "redis_ca_file": "/none/ca.crt"}, "redis_ca_file: /none/ca.crt can't be read"),
    ],
)
def test_tls_setting_that_cannot_be_used_is_refused_by_its_name(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _settings(**fields)


def test_sample_without_a_directory_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _settings(sample_dir="").sample_dir is None
    monkeypatch.setenv("TRIVIUM_ORCHESTRATOR_SAMPLE_DIR", "")
    assert _settings().sample_dir is None
    monkeypatch.setenv("TRIVIUM_ORCHESTRATOR_SAMPLE_DIR", "kept")
    assert _settings().sample_dir == Path("kept")
