"""Settings of the small model's process."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from services.engines.settings import EngineSettings


class SlmSettings(EngineSettings):
    """Serves the small model: drafts tokens and hands out the features that the router reads (gRPC SlmService)."""

    model_config = SettingsConfigDict(env_prefix="TRIVIUM_SLM_")
