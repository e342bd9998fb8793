"""Settings of the gateway process."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.common.serving.settings import CommaList, ListeningSettings, PeerSettings
from services.common.serving.tls import TlsFiles


class GatewaySettings(PeerSettings, ListeningSettings):
    """The front door: OpenAI's HTTP API over the orchestrators of a pair.

    It keeps nothing between two requests: any number of them may stand before the same orchestrators.
    """

    model_config = SettingsConfigDict(env_prefix="TRIVIUM_GATEWAY_")

    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on. 0 picks a free one.")
    orchestrator: CommaList = Field(
        min_length=1,
        description="Where the orchestrators are: host:port or another gRPC target, comma-separated. Requests go to "
        "them in turn, and on at another one when one dies. dns:///name:port stands for all addresses of a name.",
    )
    model_name: str = Field(
        "", max_length=256, description="What clients call the model. Made from the names of both models if empty."
    )
    keys_file: Path | None = Field(
        None,
        description="File of the hashed keys of those that may call. Orchestrators are shown a caller's key as well: "
        "where they have the file, they hold its tenant to its limits. Without one, everybody may call.",
    )
    https_cert_file: Path | None = Field(
        None,
        description="PEM file of the certificate that clients are shown. Like the other TLS files, it is read again "
        "for new connections when it has changed. Without one, clients are served in plain text. tls_cert_file is "
        "the one that orchestrators are shown.",
    )
    https_key_file: Path | None = Field(None, description="PEM file of that certificate's private key.")
    https_client_ca_file: Path | None = Field(
        None, description="PEM file of the CA whose certificates clients have to show. Without one, any may connect."
    )
    health_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="TCP port that answers /health, /live and /metrics, and nothing else, in plain text: for those "
        "that can't do TLS, or have no certificate. 0 opens none.",
    )
    default_temperature: float = Field(
        1.0,
        ge=0,
        le=2,
        description="Temperature of requests that name none. 1 is what OpenAI's API says; 0 is greedy.",
    )
    split_reasoning: bool = Field(
        True, description="Split what is thought into reasoning_content, where the pair's chat template has it."
    )
    max_n: int = Field(16, ge=1, le=128, description="Largest n of a request.")
    max_prompts: int = Field(256, ge=1, description="Most answers of one request, over all of its prompts.")
    max_body_mb: float = Field(4.0, gt=0, le=1024, description="Largest body of a request, in MiB.")
    body_timeout_s: float = Field(30.0, gt=0, description="Seconds that a body may take to arrive.")
    header_timeout_s: float = Field(
        15.0, gt=0, description="Seconds that the head of a request may take, and a connection may be quiet before."
    )
    keep_alive_s: float = Field(
        5.0, gt=0, description="Seconds of silence after which a stream sends a comment, so that no proxy cuts it."
    )
    timeout_s: float = Field(600.0, gt=0, description="Seconds that an answer may take.")
    retry_s: float = Field(
        60.0,
        gt=0,
        description="Seconds without progress after which an answer is given up that no orchestrator goes on with. "
        "More than DNS keeps addresses: those that it knows may all have been replaced.",
    )
    cors_origins: CommaList = Field(
        (),
        description="Origins whose pages may call this gateway, comma-separated; * stands for all. None by default.",
    )
    playground: bool = Field(True, description="Serve the page at /.")

    @property
    def https_files(self) -> TlsFiles | None:
        """What connections of clients are encrypted with; None for plain ones."""
        if self.https_cert_file is None and self.https_key_file is None:
            return None
        authority = self.https_client_ca_file
        return TlsFiles(self.https_cert_file, self.https_key_file, authority, "https_client_ca_file", prefix="https")

    @model_validator(mode="after")
    def _usable_for_clients(self) -> Self:
        if self.https_client_ca_file and not self.https_cert_file:
            raise ValueError("https_cert_file: it is missing, and https_client_ca_file is of no use without it")
        if self.https_files is not None:
            self.https_files.load()
        return self
