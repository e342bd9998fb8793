"""Settings of the small model's process."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.model_service.settings import EngineSettings


class SlmSettings(EngineSettings):
    """Serves the small model: drafts tokens and hands out the features that the router reads (gRPC SlmService)."""

    model_config = SettingsConfigDict(env_prefix="TRIVIUM_SLM_")

    draft_hold_ms: float = Field(
        default=5.0,
        ge=0,
        description="Milliseconds that drafts may wait for the next ones to share a message. A draft that its "
        "sequence waits on or that the model isn't sure of is never held, nor is any where a step takes longer than "
        "this.",
    )
