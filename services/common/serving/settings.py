"""Reads a process's settings from its command line and environment.

Owns the settings that every process has, and the way settings are read: a flag wins over the environment, a
misspelt or bad setting ends the process with exit code 2 and a line that names it. Each process adds its own fields
in a subclass.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self, TypeVar
from uuid import uuid4

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, NoDecode, SettingsConfigDict, SettingsError

from services.common.serving.call_limits import CallLimits
from services.common.serving.channels import ChannelOptions, server_options
from services.common.serving.tls import ChannelTls, TlsFiles

_SERVICE_LINK = re.compile(r"(_SERVICE_(HOST|PORT)|_PORT)(_|$)")


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Iterable):
        return tuple(part.strip() for item in value for part in str(item).split(",") if part.strip())
    return value


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
"""Several strings: separated by commas, and on the command line also by repeating the flag."""


def random_id() -> str:
    """Returns a name that no other process has."""
    return uuid4().hex[:12]


class IdentitySettings(BaseSettings):
    """The certificate by which a process is known to those that it talks with."""

    tls_cert_file: Path | None = Field(
        default=None,
        description="PEM file of this process's certificate, such as tls.crt of a cert-manager Secret. Like the "
        "other TLS files, it is read again for new connections when it has changed. Without one, all is plain text.",
    )
    tls_key_file: Path | None = Field(default=None, description="PEM file of that certificate's private key.")


class PeerSettings(IdentitySettings):
    """How a process reaches those that it calls. They are shown its certificate, if it has one."""

    tls_ca_file: Path | None = Field(
        default=None,
        description="PEM file of the CA whose certificates the services have to show that this one calls. Without "
        "one, it calls them in plain text.",
    )
    tls_server_name: str | None = Field(
        default=None,
        min_length=1,
        description="Name that their certificates have to be for, since they are called by IP address.",
    )

    @property
    def channel_tls(self) -> ChannelTls | None:
        """TLS of the channels to those services; None for plain ones."""
        if self.tls_ca_file is None:
            return None
        return ChannelTls(TlsFiles(self.tls_cert_file, self.tls_key_file, self.tls_ca_file), self.tls_server_name)

    @model_validator(mode="after")
    def _usable_for_channels(self) -> Self:
        if self.tls_server_name and not self.tls_ca_file:
            raise ValueError("tls_ca_file: it is missing, and tls_server_name is of no use without it")
        _ = self.channel_tls
        return self


class ListeningSettings(BaseSettings):
    """Settings of every process that listens. Subclasses set `env_prefix` and their own fields.

    Every field is a flag (`--drain-timeout-s 30`) and, with the subclass's prefix, an environment variable
    (`TRIVIUM_SLM_DRAIN_TIMEOUT_S=30`). Descriptions give the unit, since `--help` shows them.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        # `model` and `model_…` are fields of several processes.
        protected_namespaces=(),
    )

    host: str = Field(
        default="127.0.0.1", description="Address to listen on. 0.0.0.0 listens on every IPv4 interface."
    )
    port: int = Field(default=0, ge=0, le=65535, description="TCP port to listen on. 0 picks a free one and logs it.")
    port_file: Path | None = Field(
        default=None, description="File that the chosen port is written to once it listens."
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="Seconds that running work may take after SIGTERM before it is cut off."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe log to write."
    )
    replica_id: str = Field(
        default_factory=random_id,
        min_length=1,
        max_length=128,
        description="Name of this process among its replicas, unique for its lifetime. Random unless set.",
    )


class ProcessSettings(IdentitySettings, ListeningSettings):
    """Settings of every gRPC process."""

    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="TCP port that serves Prometheus metrics at /metrics. 0 serves none."
    )
    max_message_mb: int = Field(default=16, ge=1, le=1024, description="Largest gRPC message in or out, in MiB.")
    keepalive_s: float = Field(
        default=20.0, ge=1, description="Seconds between keepalive pings on a quiet connection."
    )
    tls_client_ca_file: Path | None = Field(
        default=None,
        description="PEM file of the CA whose certificates clients have to show. Without one, any may connect.",
    )
    health_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="TCP port that answers gRPC health checks, and nothing else, in plain text: for probes that "
        "can't do TLS. 0 opens none.",
    )
    reflection: bool = Field(default=True, description="Answer gRPC server reflection, for grpcurl and the like.")

    @property
    def server_options(self) -> ChannelOptions:
        """Options of the gRPC server."""
        return server_options(self.max_message_mb, self.keepalive_s)

    @property
    def tls_files(self) -> TlsFiles | None:
        """What the server's connections are encrypted with; None for plain ones."""
        if self.tls_cert_file is None and self.tls_key_file is None and self.tls_client_ca_file is None:
            return None
        return TlsFiles(self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file, "tls_client_ca_file")

    @model_validator(mode="after")
    def _usable_for_the_server(self) -> Self:
        if self.tls_client_ca_file and not self.tls_cert_file:
            raise ValueError("tls_cert_file: it is missing, and tls_client_ca_file is of no use without it")
        if self.tls_files is not None:
            self.tls_files.load()
        return self

    @property
    def call_limits(self) -> CallLimits:
        """What calls of the service may take."""
        return CallLimits()


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def read_settings(
    settings_type: type[SettingsT],
    *,
    prog: str,
    example: str,
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> SettingsT:
    """Reads the settings of this process.

    Args:
        settings_type: What to read. Its docstring heads `--help`.
        prog: How the process is started, e.g. "python -m services.slm".
        example: A command line to show in `--help`.
        argv: Arguments after the program's name; those of this process if None.
        environ: Where misspelt names are looked for; the environment of this process if None.

    Raises:
        SystemExit: With code 2 after a bad or misspelt setting, with code 0 after `--help`.
    """
    prefix = settings_type.model_config["env_prefix"]
    _refuse_misspelt(settings_type, prog, os.environ if environ is None else environ)
    parser = argparse.ArgumentParser(
        prog=prog,
        description=settings_type.__doc__,
        epilog=f"Each flag may also be set as {prefix}<FLAG>, e.g. {prefix}LOG_LEVEL=DEBUG; a flag wins.\n\n"
        f"Example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(settings_type, root_parser=parser)
    try:
        return settings_type(_cli_settings_source=source(args=list(sys.argv[1:] if argv is None else argv)))
    except ValidationError as error:
        _refuse(prog, [_describe(prefix, problem["loc"], problem) for problem in error.errors()])
    except SettingsError as error:
        _refuse(prog, [str(error)])


def _describe(prefix: str, location: tuple[int | str, ...], problem: Mapping[str, object]) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not location:
        # Of several settings that don't fit together; what was given is all of them, passwords too.
        return message
    name = str(location[0])
    flag = f"--{name.replace('_', '-')} ({prefix}{name.upper()})"
    if problem["type"] == "missing":
        return f"{flag} is required"
    return f"{flag}: {message}, got {problem['input']!r}"


def _refuse_misspelt(settings_type: type[BaseSettings], prog: str, environ: Mapping[str, str]) -> None:
    prefix = settings_type.model_config["env_prefix"]
    known = {f"{prefix}{name}".upper() for name in settings_type.model_fields}
    problems = []
    for name in sorted(environ):
        if not name.upper().startswith(prefix) or name.upper() in known:
            continue
        closest = difflib.get_close_matches(name.upper(), known, n=1)
        hint = f"did you mean {closest[0]}?" if closest else f"known are {', '.join(sorted(known))}"
        if _SERVICE_LINK.search(name):
            hint = "Kubernetes sets it where enableServiceLinks isn't false in the pod's spec"
        problems.append(f"environment variable {name} is not a setting: {hint}")
    if problems:
        _refuse(prog, problems)


def _refuse(prog: str, problems: Iterable[str]) -> NoReturn:
    sys.stderr.write("".join(f"{prog}: {problem}\n" for problem in problems))
    raise SystemExit(2)
