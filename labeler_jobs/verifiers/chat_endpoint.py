"""A language model behind an OpenAI-compatible URL, as the backend of `labeler_jobs.verifiers.llm_verifier`.

Owns concurrency, timeouts and retries. The API key comes from the settings and goes into one header; it is in no log
and no error.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any

import httpx
from pydantic import Field, HttpUrl, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from labeler_jobs.verifiers.names import VerifierChoiceError
from labeler_jobs.verifiers.verifier import VerifierUnreachable

logger = logging.getLogger(__name__)

_SHOWN_CHARS = 300
"""Characters of a server's error that are passed on."""
_CHECK_TIMEOUT_S = 30.0


def endpoint_settings(url: str) -> EndpointSettings:
    """The settings of an endpoint, of which all but the URL come from `TRIVIUM_VERIFIER_…`.

    Raises:
        VerifierChoiceError: One is missing or wrong.
    """
    try:
        return EndpointSettings(base_url=url)  # type: ignore[arg-type, call-arg]
    except ValidationError as error:
        # Without what was given: it may be the key.
        mistakes = [(str(mistake["loc"][0]), mistake["msg"]) for mistake in error.errors(include_input=False)]
        names = {"base_url": "--verifier"}
        told = (f"{names.get(field, f'TRIVIUM_VERIFIER_{field.upper()}')}: {what}" for field, what in mistakes)
        raise VerifierChoiceError("; ".join(told)) from None


class EndpointSettings(BaseSettings):
    """Where the verifier model is and how it is asked. Read from `TRIVIUM_VERIFIER_…` where a field isn't given."""

    model_config = SettingsConfigDict(
        env_prefix="TRIVIUM_VERIFIER_", frozen=True, extra="forbid", protected_namespaces=()
    )

    base_url: HttpUrl = Field(description='Beginning of the URL, e.g. "http://127.0.0.1:30000/v1".')
    model: str = Field(min_length=1, description="Name of the model, as the endpoint knows it.")
    api_key: SecretStr | None = Field(default=None, description="Sent as a bearer token.")
    concurrency: int = Field(default=16, ge=1, description="Most requests under way at a time.")
    timeout_s: float = Field(default=120.0, gt=0, description="Seconds that one request may take.")
    max_attempts: int = Field(default=6, ge=1, description="How often a request is sent before the batch fails.")
    first_delay_s: float = Field(
        default=1.0, ge=0, description="Seconds before the second attempt, on average half of it; doubles each time."
    )
    max_delay_s: float = Field(default=60.0, ge=0, description="Most seconds between two attempts.")
    max_tokens: int = Field(default=512, ge=1, description="Limit of an answer, in tokens.")

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        # Files that keys come from like to end with a line break.
        text = key.get_secret_value().strip() if key else ""
        if not (text.isascii() and text.isprintable()):
            raise ValueError("holds a character that no key has")
        return SecretStr(text) if text else None


class ChatEndpoint:
    """Asks an endpoint; implements `labeler_jobs.verifiers.llm_verifier.TextGenerator`."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Sets an endpoint up; nothing is sent yet.

        Args:
            settings: Where it is and how it is asked.
        """
        self._settings = settings
        self._url = str(settings.base_url).rstrip("/") + "/chat/completions"
        self._key = settings.api_key.get_secret_value() if settings.api_key else ""

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """Asks all prompts, several at a time; see `TextGenerator.generate`.

        Raises:
            VerifierUnreachable: If a prompt was refused, or failed on every attempt; the others are cancelled.
        """
        try:
            return asyncio.run(self._ask_all(prompts))
        except ExceptionGroup as group:
            unreachable = group.subgroup(VerifierUnreachable)
            if unreachable is None:
                raise
            raise unreachable.exceptions[0] from None

    def check(self) -> None:
        """Asks one short question, so that a wrong address, key or model is found before any work is done.

        Raises:
            VerifierUnreachable: Nobody answers there, or the request is refused. One who is busy is there.
        """
        try:
            asyncio.run(self._ask_once("Is anyone there? Answer with one word."))
        except _TemporaryError as error:
            if not error.is_answer:
                raise self._unreachable(f"can't be reached: {error}") from error

    async def _ask_once(self, prompt: str) -> None:
        timeout_s = min(_CHECK_TIMEOUT_S, self._settings.timeout_s)
        async with httpx.AsyncClient(headers=self._headers(), timeout=timeout_s) as client:
            await self._attempt(client, prompt, timeout_s)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    async def _ask_all(self, prompts: Sequence[str]) -> list[str]:
        limit = asyncio.Semaphore(self._settings.concurrency)
        async with (
            httpx.AsyncClient(headers=self._headers(), timeout=self._settings.timeout_s) as client,
            asyncio.TaskGroup() as tasks,
        ):
            answers = [tasks.create_task(self._ask(client, limit, prompt)) for prompt in prompts]
        return [answer.result() for answer in answers]

    async def _ask(self, client: httpx.AsyncClient, limit: asyncio.Semaphore, prompt: str) -> str:
        """Asks until there is an answer; the place among the concurrent requests is free while it waits."""
        settings = self._settings
        for attempt in range(1, settings.max_attempts + 1):
            try:
                async with limit:
                    return await self._attempt(client, prompt, settings.timeout_s)
            except _TemporaryError as error:
                if attempt == settings.max_attempts:
                    raise self._unreachable(f"gave no answer in {attempt} attempts, the last one: {error}") from error
                logger.debug("verifier attempt %d failed: %s", attempt, error)
                backoff_s = random.uniform(0, settings.first_delay_s * 2 ** (attempt - 1))
                await asyncio.sleep(min(max(backoff_s, error.retry_after_s), settings.max_delay_s))
        raise AssertionError("the loop returns or raises")

    async def _attempt(self, client: httpx.AsyncClient, prompt: str, timeout_s: float) -> str:
        payload = {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self._settings.max_tokens,
        }
        try:
            # httpx limits the wait for each piece of a response; this limits all of it.
            async with asyncio.timeout(timeout_s):
                response = await client.post(self._url, json=payload)
        except TimeoutError as error:
            raise _TemporaryError(f"no answer within {timeout_s:g} s") from error
        except httpx.RequestError as error:
            raise _TemporaryError(f"{type(error).__name__} {error}".strip()) from error
        said = f"HTTP {response.status_code} {self._excerpt(response)}".strip()
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            raise _TemporaryError(said, _retry_after_s(response), is_answer=True)
        if response.status_code != httpx.codes.OK:
            raise self._unreachable(f"refused the request: {said}")
        return _read_answer(response)

    def _unreachable(self, what: str) -> VerifierUnreachable:
        return VerifierUnreachable(f"the verifier at {self._url} {what}")

    def _excerpt(self, response: httpx.Response) -> str:
        """The beginning of what a server says; servers like to repeat the key that they refuse."""
        text = response.text.replace(self._key, "…") if self._key else response.text
        return " ".join(text[:_SHOWN_CHARS].split())


class _TemporaryError(Exception):
    """An attempt failed in a way that may pass; `is_answer` if a server said so."""

    def __init__(self, what: str, retry_after_s: float = 0.0, *, is_answer: bool = False) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s
        self.is_answer = is_answer


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds that the server asks for; 0 where it asks for none, or for a date."""
    asked = response.headers.get("retry-after", "")
    return float(asked) if asked.isdecimal() else 0.0


def _read_answer(response: httpx.Response) -> str:
    try:
        content: Any = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise _TemporaryError("the response is no chat completion") from error
    # Null where a reasoning model ran into its limit before it said anything.
    return content if isinstance(content, str) else ""
