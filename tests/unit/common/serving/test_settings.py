from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from services.common.serving.settings import CommaList, ProcessSettings, read_settings
from tests.certificates import Authority


class _Settings(ProcessSettings):
    """Serves a test."""

    model_config = SettingsConfigDict(env_prefix="TRIVIUM_SLM_")

    model: str = Field(description="Directory of the model.")
    peers: CommaList = Field(default=(), description="Addresses.")


def _read(*argv: str, **environ: str) -> _Settings:
    return read_settings(
        _Settings,
        prog="python -m services.slm",
        example="python -m services.slm --model x",
        argv=argv,
        environ=environ,
    )


def test_read_flag_and_environment_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_SLM_PORT", "1234")
    monkeypatch.setenv("TRIVIUM_SLM_LOG_LEVEL", "DEBUG")
    settings = _read("--model", "x", "--port", "99", "--no-reflection")
    assert (settings.port, settings.log_level, settings.reflection) == (99, "DEBUG", False)


def test_read_comma_list_joins_flags_and_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _read("--model", "x", "--peers", "a:1,b:2", "--peers", "c:3").peers == ("a:1", "b:2", "c:3")
    monkeypatch.setenv("TRIVIUM_SLM_PEERS", "d:4, e:5")
    assert _read("--model", "x").peers == ("d:4", "e:5")


def test_settings_are_frozen_and_refuse_unknown_fields() -> None:
    settings = _read("--model", "x")
    with pytest.raises(ValidationError):
        settings.port = 1
    with pytest.raises(ValidationError):
        _Settings(model="x", prot=1)  # type: ignore[call-arg]


def test_replica_id_unset_differs_between_processes() -> None:
    assert _read("--model", "x").replica_id != _read("--model", "x").replica_id


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        (["--model", "x"], {"TRIVIUM_SLM_PROT": "1"}, ["TRIVIUM_SLM_PROT", "did you mean TRIVIUM_SLM_PORT?"]),
        (
            ["--model", "x"],
            {"TRIVIUM_SLM_SERVICE_HOST": "10.0.0.1"},
            ["TRIVIUM_SLM_SERVICE_HOST", "enableServiceLinks"],
        ),
        (["--model", "x", "--port", "70000"], {}, ["--port (TRIVIUM_SLM_PORT)", "65535", "'70000'"]),
        (["--model", "x", "--log-level", "loud"], {}, ["--log-level", "'loud'"]),
        (["--model", "x", "--drain-timeout-s", "-1"], {}, ["--drain-timeout-s", "'-1'"]),
        ([], {}, ["--model (TRIVIUM_SLM_MODEL) is required"]),
        (["--model", "x", "--prot", "1"], {}, ["--prot"]),
    ],
)
def test_read_bad_setting_exits_2_naming_it(
    argv: list[str], environ: dict[str, str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        _read(*argv, **environ)
    message = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert all(word in message for word in words), message
    assert "Traceback" not in message


def test_read_variable_of_another_process_is_ignored() -> None:
    assert _read("--model", "x", TRIVIUM_LLM_PROT="1", HOME="/").model == "x"


def test_help_names_every_field_and_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        _read("--help")
    text = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert all(f"--{name.replace('_', '-')}" in text for name in _Settings.model_fields)
    assert "python -m services.slm --model x" in text
    assert "TRIVIUM_SLM_LOG_LEVEL=DEBUG" in text


def test_every_setting_is_described() -> None:
    assert all(field.description for field in _Settings.model_fields.values())


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        (["cert"], "tls_key_file: it is missing"),
        (["key"], "tls_cert_file: it is missing"),
        (["client-ca"], "tls_cert_file: it is missing"),
    ],
)
def test_half_of_tls_exits_2_naming_the_setting_that_is_missing(
    given: list[str], setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = Authority().issue(tmp_path)
    files = {"cert": secret.certificate, "key": secret.key, "client-ca": secret.ca}
    flags = [part for name in given for part in (f"--tls-{name}-file", str(files[name]))]
    with pytest.raises(SystemExit) as exit_info:
        _read("--model", "x", *flags)
    assert exit_info.value.code == 2
    assert setting in capsys.readouterr().err


def test_tls_file_that_is_not_there_exits_2_naming_its_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = Authority().issue(tmp_path)
    secret.ca.unlink()
    with pytest.raises(SystemExit) as exit_info:
        _read("--model", "x", *secret.server_flags)
    assert exit_info.value.code == 2
    assert f"tls_client_ca_file: {secret.ca} can't be read" in capsys.readouterr().err


def test_process_with_a_certificate_serves_tls_and_one_without_serves_plain_text(tmp_path: Path) -> None:
    secret = Authority().issue(tmp_path)
    files = _read("--model", "x", *secret.server_flags).tls_files
    assert files is not None
    assert (files.certificate, files.key, files.authority) == (secret.certificate, secret.key, secret.ca)
    assert _read("--model", "x").tls_files is None
