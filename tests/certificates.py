"""Certificates of a test's own CAs, in files with the names that cert-manager's Secrets have."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SERVER_NAME = "trivium.test"

_numbers = itertools.count(1)


class Secret:
    """A folder that holds `tls.crt`, `tls.key` and `ca.crt`, as a mounted Secret does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.ca = directory / "ca.crt"

    @property
    def server_flags(self) -> tuple[str, ...]:
        """Settings of a server whose clients have to show a certificate of the same CA."""
        return (*self.identity_flags, "--tls-client-ca-file", str(self.ca))

    @property
    def client_flags(self) -> tuple[str, ...]:
        """Settings of a server that calls others, beside `server_flags`."""
        return ("--tls-ca-file", str(self.ca), "--tls-server-name", SERVER_NAME)

    @property
    def https_flags(self) -> tuple[str, ...]:
        """Settings of a gateway whose clients have to show a certificate of the same CA."""
        files = (("cert", self.certificate), ("key", self.key), ("client-ca", self.ca))
        return tuple(part for name, path in files for part in (f"--https-{name}-file", str(path)))

    @property
    def identity_flags(self) -> tuple[str, ...]:
        """Settings of a server that takes any client."""
        return ("--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key))


class Authority:
    """A CA, with a key of its own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test CA {next(_numbers)}")])
        builder = _builder(self._name, self._name, self._key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, directory: Path, *, loopback: bool = False, trusted: bytes | None = None) -> Secret:
        """Writes a new certificate for `SERVER_NAME`, over one that may be there.

        Args:
            directory: Where the files go.
            loopback: Whether it is for 127.0.0.1 too.
            trusted: What `ca.crt` holds; this CA alone if None.
        """
        directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(SERVER_NAME)]
        if loopback:
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test {next(_numbers)}")])
        builder = _builder(subject, self._name, key).add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        secret = Secret(directory)
        _replace(secret.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        _replace(
            secret.key,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        _replace(secret.ca, self.pem if trusted is None else trusted)
        return secret


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
    )


def _replace(path: Path, content: bytes) -> None:
    written = path.with_suffix(".new")
    written.write_bytes(content)
    written.replace(path)
