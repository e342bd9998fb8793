"""TLS of connections, with certificates that may be replaced while the process runs.

Owns the PEM files: that they fit together, and when they are read again. They have the shape of cert-manager's
Secrets (tls.crt, tls.key, ca.crt). A connection keeps what it was made with; each new one is made with what the files
hold then, or with what they held last where that can't be used.
"""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from services.common.files.changes import file_signature

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files of one side hold, as gRPC takes it."""

    certificate: bytes | None = None
    key: bytes | None = None
    authority: bytes | None = None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one side of a connection.

    Args:
        certificate: Its certificate, followed by those between it and its CA.
        key: The certificate's private key, without a password.
        authority: The CA whose certificates the other side has to show.
        authority_setting: Name of the setting that `authority` comes from.
        prefix: What the names of the others' settings begin with: `tls_cert_file` and `tls_key_file`.
    """

    certificate: Path | None
    key: Path | None
    authority: Path | None
    authority_setting: str = "tls_ca_file"
    prefix: str = "tls"

    def load(self) -> Pem:
        """Reads all files.

        Raises:
            ValueError: One can't be used; the message begins with the setting's name.
        """
        if (self.certificate is None) != (self.key is None):
            missing, given = ("cert", "key") if self.key else ("key", "cert")
            raise ValueError(
                f"{self.prefix}_{missing}_file: it is missing, and {self.prefix}_{given}_file is of no use without it"
            )
        pem = Pem(
            certificate=_certificates(f"{self.prefix}_cert_file", self.certificate),
            key=_content(f"{self.prefix}_key_file", self.key),
            authority=_certificates(self.authority_setting, self.authority),
        )
        if pem.certificate is not None:
            try:
                server_context(pem)
            except (OSError, ValueError):
                raise ValueError(
                    f"{self.prefix}_key_file: {self.key} isn't the key of {self.certificate} in PEM form, or it has "
                    "a password"
                ) from None
        return pem

    def signature(self) -> tuple[object, ...]:
        """Differs from an earlier one if a file was changed or replaced."""
        return tuple(path and file_signature(path) for path in (self.certificate, self.key, self.authority))


class LivePem:
    """What the files hold, or held when they could last be used.

    Args:
        files: The files.

    Raises:
        ValueError: They can't be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._signature = files.signature()
        self._complaint = ""
        self.pem = files.load()

    def refresh(self) -> bool:
        """Reads the files if they have changed. Returns whether there is something new in them."""
        signature = self._files.signature()
        if signature == self._signature:
            return False
        try:
            pem = self._files.load()
        except ValueError as error:
            # They may be about to be written; whoever connects next looks again.
            if (complaint := str(error)) != self._complaint:
                logger.error("TLS goes on with the files as they were: %s", complaint)
            self._complaint = complaint
            return False
        if self._files.signature() != signature:
            return False
        self._signature, self._complaint = signature, ""
        has_changed = pem != self.pem
        self.pem = pem
        if has_changed:
            logger.info("TLS files were read again")
        return has_changed


def server_context(pem: Pem) -> ssl.SSLContext:
    """TLS of a server that isn't gRPC's: with a CA, clients have to show a certificate of it.

    Raises:
        OSError: The key isn't the certificate's.
        ValueError: The key has a password.
    """
    assert pem.key is not None, "a server has a certificate"
    assert pem.certificate is not None, "a server has a certificate"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Keys are taken from files alone; the ones that these were read from may hold others by now.
    with os.fdopen(os.memfd_create("tls"), "wb") as file:
        file.write(pem.key + b"\n" + pem.certificate)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password=_no_password)
    if pem.authority is not None:
        context.load_verify_locations(cadata=pem.authority.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of a server: with a CA, clients have to show a certificate of it.

    Raises:
        ValueError: The files can't be used.
    """
    live = LivePem(files)

    def fetch() -> Any:
        # gRPC asks before each handshake, on a thread of its own; None tells that nothing is new.
        return _configuration(live.pem) if live.refresh() else None

    return grpc.dynamic_ssl_server_credentials(
        _configuration(live.pem), fetch, require_client_authentication=files.authority is not None
    )


class ChannelTls:
    """TLS of channels: peers have to show a certificate of the CA, and are shown this side's, if there is one.

    Args:
        files: The files; the CA is one of them.
        server_name: What the peers' certificates have to be for; None for the address that is called.

    Raises:
        ValueError: The files can't be used.
    """

    def __init__(self, files: TlsFiles, server_name: str | None = None) -> None:
        self._live = LivePem(files)
        self._credentials = _channel_credentials(self._live.pem)
        self.options: list[tuple[str, str]] = [("grpc.ssl_target_name_override", server_name)] if server_name else []
        """Options of the channels."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a new channel: the same object for as long as the files are the same."""
        if self._live.refresh():
            self._credentials = _channel_credentials(self._live.pem)
        return self._credentials


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    assert pem.key is not None, "a server has a certificate"
    assert pem.certificate is not None, "a server has a certificate"
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.authority)


def _channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(pem.authority, pem.key, pem.certificate)


def _content(setting: str, path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise ValueError(f"{setting}: {path} can't be read: {error.strerror}") from None


def _certificates(setting: str, path: Path | None) -> bytes | None:
    content = _content(setting, path)
    if content is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise ValueError(f"{setting}: {path} holds no certificate in PEM form") from None
    return content


def _no_password() -> str:
    raise ValueError("the key has a password")
