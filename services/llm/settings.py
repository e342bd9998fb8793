"""Settings of the large model's process."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from services.model_service.settings import EngineSettings


class LlmSettings(EngineSettings):
    """Serves the large model: extends prefixes and answers which token it would write (gRPC LlmService)."""

    model_config = SettingsConfigDict(env_prefix="TRIVIUM_LLM_")
