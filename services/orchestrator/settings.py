"""Settings of the orchestrator process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from services.common.rule_spec import RuleSpec
from services.common.serving.call_limits import MAX_READING, CallLimits
from services.common.serving.channels import ChannelOptions
from services.common.serving.settings import CommaList, PeerSettings, ProcessSettings
from services.common.serving.tls import TlsFiles
from services.orchestrator.learning.sample import MOST
from services.orchestrator.replicas.discovery import Target

# Of a message that isn't being read.
_UNREAD_BYTES = 16 * 1024


class OrchestratorSettings(PeerSettings, ProcessSettings):
    """The front of a pair: tokenizes, routes token by token, and streams the answer out.

    It turns SERVING once an SLM, an LLM and a router, if it has one, answer and are found to belong together.
    """

    model_config = SettingsConfigDict(env_prefix="TRIVIUM_ORCHESTRATOR_")

    slm: CommaList = Field(
        description="Addresses of the SLM replicas, host:port, comma-separated. A name stands for a replica at each "
        "of its IP addresses, and is looked up again and again.",
        min_length=1,
    )
    router: CommaList = Field(
        (), description="Addresses of the router replicas, in the same way. None: the pair has no router."
    )
    llm: CommaList = Field(description="Addresses of the LLM replicas, in the same way.", min_length=1)
    discovery_interval_s: float = Field(
        2.0, ge=0.1, description="Seconds between two look-ups of the names among these addresses."
    )
    llm_grace_s: float = Field(
        5.0,
        ge=0,
        description="Seconds that a request waits for an LLM replica before the LLM counts as lost, and the request "
        "does what its llm_loss_policy says.",
    )
    peer_grace_s: float = Field(
        60.0,
        ge=0,
        description="Seconds that requests wait for an SLM or router replica before they end with UNAVAILABLE, and "
        "new ones are refused. Until then they pause.",
    )
    stall_limit_s: float = Field(
        3.0,
        ge=0.5,
        description="Seconds of silence after which a replica that owes an answer counts as lost. It grows by itself "
        "where answers take longer.",
    )
    tokenizer: str = Field(description="Hugging Face id or directory of the pair's tokenizer.")
    tokenizer_revision: str = Field("", description="Hugging Face revision of the tokenizer.")
    rule: str = Field(
        "router",
        description="The rule of requests that name none, as NAME or NAME:PARAMETER=NUMBER,… A pair without a router "
        "needs one that asks none, such as entropy.",
    )
    rule_sweeps: CommaList = Field(
        (),
        description="Files of sweeps that `trivium calibrate --rule` has made: with one, requests may name a budget "
        "for its rule. The router's sweep comes with its checkpoint.",
    )
    shadow_rule: str = Field(
        "",
        description="A second rule, in the same way, which decides nothing: metrics count what it would have decided "
        "beside what the requests' own rules do. `router` is the router service's --shadow-checkpoint.",
    )
    shadow_share: float = Field(1.0, ge=0, le=1, description="Share of the requests that it looks at.")
    sample_dir: Path | None = Field(
        None,
        description="Directory for a sample of the drafts of requests that are decoded greedily: the SLM's features "
        "and both models' tokens, no text. `trivium label collect` makes training data of it.",
    )
    sample_share: float = Field(0.01, ge=0, le=MOST, description="Share of the drafts that are kept.")
    sample_max_mb: int = Field(
        1024, ge=1, description="MiB that the sample's files may take; beyond it, the oldest ones go."
    )
    allow_other_slm: bool = Field(
        False, description="Serve a router before an SLM of other weights than it was trained with."
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis of the prefix index, e.g. redis://127.0.0.1:6379/0. Without one there is no index."
    )
    redis_password: SecretStr | None = Field(
        None, description="Password of that Redis, where its URL doesn't hold one. Best set in the environment."
    )
    redis_ca_file: Path | None = Field(
        None,
        description="PEM file of the CA of that Redis, for a rediss:// URL. Without one, the system's CAs count.",
    )
    redis_timeout_ms: int = Field(50, ge=1, description="Longest that a request waits for Redis, in milliseconds.")
    redis_ttl_s: int = Field(3600, ge=1, description="Seconds after which an unused index entry is forgotten.")
    token_log_interval_ms: int = Field(
        250, ge=10, description="Milliseconds between two writes of accepted tokens to Redis."
    )
    run_ahead_depth: int = Field(
        12, ge=0, description="Tokens the SLM may draft past the oldest undecided one. 0 waits for every decision."
    )
    max_run_ahead_depth: int = Field(64, ge=0, description="Largest run_ahead_depth that a request may ask for.")
    keys_file: Path | None = Field(
        None,
        description="YAML or JSON file of tenants and the hashes of their keys, which `trivium keys` makes; read "
        "again when it changes. With one, calls need a key, and reflection is off. What a tenant may take counts for "
        "each orchestrator by itself.",
    )
    max_active_requests: int = Field(256, ge=1, description="Requests that run at once.")
    max_waiting_requests: int = Field(
        256,
        ge=0,
        description="Requests that wait for their turn, first come first served; more are refused at once. Calls "
        f"beyond both and {MAX_READING} more, which are being read, are refused before their message is received.",
    )
    default_deadline_s: float = Field(
        3600.0,
        ge=0,
        description="Seconds after which a request ends with DEADLINE_EXCEEDED whose client named no deadline; its "
        "wait counts. 0 sets none.",
    )
    stream_interval_ms: int = Field(
        50, ge=0, description="Least milliseconds between two messages of one answer. 0 sends each token at once."
    )
    max_connection_age_s: float = Field(
        0,
        ge=0,
        description="Seconds after which a client is told to connect anew, perhaps to another orchestrator. Answers "
        "that run then go on where they are. 0 keeps connections.",
    )

    @property
    def call_limits(self) -> CallLimits:
        """What calls may take: a place each, or the time to be told that there is none."""
        return CallLimits(
            max_calls=self.max_active_requests + self.max_waiting_requests + MAX_READING,
            default_deadline_s=self.default_deadline_s,
        )

    @property
    def server_options(self) -> ChannelOptions:
        """Options of the gRPC server."""
        age_ms = int(self.max_connection_age_s * 1000)
        return [
            *super().server_options,
            # What nobody has asked for yet stays with the client: as much of each message that isn't being read is
            # kept here, and it would grow to whole messages by itself.
            ("grpc.http2.lookahead_bytes", _UNREAD_BYTES),
            ("grpc.http2.bdp_probe", 0),
            *([("grpc.max_connection_age_ms", age_ms)] if age_ms else []),
        ]

    @field_validator("slm", "router", "llm")
    @classmethod
    def _targets(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for target in targets:
            Target.parse(target)
        return targets

    @field_validator("rule")
    @classmethod
    def _readable_rule(cls, rule: str) -> str:
        RuleSpec.parse(rule)
        return rule

    @field_validator("sample_dir", mode="before")
    @classmethod
    def _no_directory(cls, path: object) -> object:
        # As a path, no text would be the working directory.
        return path or None

    @field_validator("shadow_rule")
    @classmethod
    def _readable_shadow_rule(cls, rule: str) -> str:
        return cls._readable_rule(rule) if rule else rule

    @model_validator(mode="after")
    def _one_password_for_redis(self) -> OrchestratorSettings:
        if self.redis_password and not self.redis_url:
            raise ValueError("redis_password: there is no redis_url that it is for")
        if self.redis_password and self.redis_url and "@" in self.redis_url.get_secret_value():
            raise ValueError("redis_password: redis_url names a user or holds a password already; give one of both")
        return self

    @model_validator(mode="after")
    def _usable_ca_for_redis(self) -> OrchestratorSettings:
        if self.redis_ca_file:
            if not (self.redis_url and self.redis_url.get_secret_value().startswith("rediss://")):
                raise ValueError("redis_ca_file: there is no rediss:// redis_url that it is for")
            TlsFiles(None, None, self.redis_ca_file, "redis_ca_file").load()
        return self

    @model_validator(mode="after")
    def _depth_below_maximum(self) -> OrchestratorSettings:
        if self.run_ahead_depth > self.max_run_ahead_depth:
            raise ValueError("run_ahead_depth: must not exceed max_run_ahead_depth")
        return self
