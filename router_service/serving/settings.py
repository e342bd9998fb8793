"""Settings of the router's process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.serving.settings import ProcessSettings


class RouterSettings(ProcessSettings):
    """Serves the router: scores how likely a drafted token leads the reasoning astray (gRPC RouterService)."""

    model_config = SettingsConfigDict(env_prefix="TRIVIUM_ROUTER_")

    checkpoint: Path = Field(
        description="Directory of the router checkpoint. When it holds another one, that serves new sequences within "
        "seconds; those that run keep the weights that they began with."
    )
    shadow_checkpoint: Path | None = Field(
        default=None,
        description="Directory of a second router for the same SLM, which decides nothing: orchestrators with "
        '--shadow-rule "router" count what it would have decided. Followed as the first one is.',
    )
    max_versions: int = Field(
        default=4,
        ge=2,
        description="Routers that are held at most: the one that serves, and those before it.",
    )
    slm_model: Path | None = Field(
        default=None, description="Directory of the SLM, for its input embedding where the checkpoint holds none."
    )
    allow_other_slm: bool = Field(
        default=False, description="Take an SLM of other weights there than the router was trained with."
    )
    device: str = Field(default="cpu", min_length=1, description='torch device, e.g. "cpu" or "cuda".')
    num_threads: int = Field(default=1, ge=0, description="CPU threads of a forward pass. 0 leaves torch's default.")
    max_batch_rows: int = Field(default=1024, ge=1, description="Most drafted tokens in one forward pass.")
    max_waiting_rows: int = Field(
        default=8192,
        ge=1,
        description="Drafted tokens that may wait to be scored before no more are read from the streams.",
    )
    max_pending_mb: int = Field(
        default=16, ge=1, description="MiB that may wait for a slow reader before its stream is ended, per stream."
    )

    @field_validator("shadow_checkpoint", mode="before")
    @classmethod
    def _no_directory(cls, path: object) -> object:
        # As a path, no text would be the working directory.
        return path or None
