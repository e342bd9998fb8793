"""How commands reach services: in plain text, or with the TLS and the key that the environment names.

Owns these settings, and the one place where a command opens a connection.
"""

from __future__ import annotations

import socket
import ssl
from functools import partial
from typing import Any

import grpc
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from services.cli.errors import CliError
from services.common.serving.channels import open_channel
from services.common.serving.settings import PeerSettings


class ConnectionSettings(PeerSettings):
    """How services are reached: TRIVIUM_TLS_CA_FILE and the like, and TRIVIUM_API_KEY."""

    model_config = SettingsConfigDict(env_prefix="TRIVIUM_")

    api_key: SecretStr | None = Field(default=None, description="Key that an orchestrator asks for.")


_of_its_own: list[ConnectionSettings] = []


def talk_to_own_pair() -> None:
    """From now on this command talks with services that it has started itself: in plain text, without a key."""
    _of_its_own[:] = [ConnectionSettings.model_construct()]


def connection() -> ConnectionSettings:
    """How services are reached now.

    Raises:
        CliError: The environment names what can't be used.
    """
    if _of_its_own:
        return _of_its_own[0]
    try:
        return ConnectionSettings()
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        message = str(problem["msg"]).removeprefix("Value error, ")
        setting, _, rest = message.partition(": ") if not problem["loc"] else (str(problem["loc"][0]), "", message)
        raise CliError(f"TRIVIUM_{setting.upper()}: {rest}") from None


def client_options() -> dict[str, Any]:
    """Arguments of `services.client.AsyncClient` beside its targets."""
    settings = connection()
    key = settings.api_key
    return {
        "open_channel": partial(open_channel, tls=settings.channel_tls),
        "api_key": key.get_secret_value() if key else None,
    }


def metadata() -> tuple[tuple[str, str], ...]:
    """What a call to an orchestrator carries."""
    key = connection().api_key
    return (("authorization", f"Bearer {key.get_secret_value()}"),) if key else ()


def local_channel(address: str) -> grpc.Channel:
    """Opens a blocking channel that never goes through a proxy."""
    tls = connection().channel_tls
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, tls.credentials(), options=[*options, *tls.options])


def tls_socket(host: str, port: int, timeout_s: float) -> ssl.SSLSocket:
    """Opens a connection for HTTPS. Without TRIVIUM_TLS_CA_FILE, the certificates count that this machine trusts.

    Raises:
        CliError: The environment names what can't be used.
        OSError: Nobody answers, or not as it should.
    """
    settings = connection()
    context = ssl.create_default_context(cafile=settings.tls_ca_file)
    if settings.tls_cert_file is not None:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    plain = socket.create_connection((host, port), timeout_s)
    try:
        return context.wrap_socket(plain, server_hostname=settings.tls_server_name or host)
    except OSError:
        plain.close()
        raise
