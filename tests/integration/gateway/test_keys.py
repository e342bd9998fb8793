"""Keys through HTTP: who is let in, what a tenant may take, and that one tenant reaches nothing of another's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.access.keys_file import key_line, new_key
from tests.integration.gateway.door import MODEL, PATHS, TIMEOUT_S, running_gateway
from tests.integration.harness.pair import RunningPair

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ACME, BETA = new_key(), new_key()
PROMPT = "Ann starts with 24 stones."
ASKED: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}
# The noise of such a temperature ends no answer soon.
LONG: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 900, "temperature": 2, "seed": 3}


@asynccontextmanager
async def _keyed(pair: RunningPair, tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, list[str]]]:
    """A gateway and an orchestrator with the same keys, and what both have logged once they have ended."""
    path = tmp_path / "keys.yaml"
    path.write_text(
        "tenants:\n"
        "  acme: {max_concurrent_requests: 1, routing: {max_llm_usage: 0.5}}\n"
        "  beta: {max_concurrent_requests: 4}\n"
        f"keys:\n{key_line('acme', ACME)}\n{key_line('beta', BETA)}\n"
    )
    logs: list[str] = []
    async with pair.running_orchestrator("keyed-http", "--keys-file", str(path)) as front:
        flags = ("--keys-file", str(path), "--log-level", "DEBUG")
        async with (
            running_gateway(front.address, *flags, directory=tmp_path / "gateway") as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT_S) as http,
        ):
            yield http, logs
            logs += gateway.log, front.process.log


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_callers_are_let_in_by_their_keys_and_held_to_their_tenants_limits(
    pair: RunningPair, tmp_path: Path
) -> None:
    async with _keyed(pair, tmp_path) as (http, logs):
        for headers in ({}, _bearer(new_key()), {"Authorization": ACME}):
            for refused in (
                await http.get("/v1/models", headers=headers),
                # Refused before it is read: this is no JSON.
                await http.post(PATHS["chat"], content=b"{", headers=headers),
            ):
                assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert (await http.get("/health")).json()["model"] == MODEL
        assert (await http.get("/v1/models", headers=_bearer(ACME))).json()["data"][0]["id"] == MODEL

        answered = await http.post(PATHS["text"], json=ASKED, headers=_bearer(ACME))
        assert answered.status_code == 200, answered.text
        dear = await http.post(PATHS["text"], json=ASKED | {"target_llm_usage": 0.9}, headers=_bearer(ACME))
        assert (dear.status_code, dear.json()["error"]["param"]) == (403, "target_llm_usage")

        async with http.stream("POST", PATHS["text"], json=LONG | {"stream": True}, headers=_bearer(ACME)) as stream:
            assert stream.status_code == 200
            busy = await http.post(PATHS["text"], json=ASKED, headers=_bearer(ACME))
            assert (busy.status_code, busy.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert int(busy.headers["Retry-After"]) >= 1
            # The other tenant's place is its own.
            assert (await http.post(PATHS["text"], json=ASKED, headers=_bearer(BETA))).status_code == 200
    assert not any(secret in log for log in logs for secret in (ACME, BETA, PROMPT))


async def test_stream_of_one_tenant_is_not_gone_on_with_by_another(pair: RunningPair, tmp_path: Path) -> None:
    async with _keyed(pair, tmp_path) as (http, _logs):
        body = LONG | {"stream": True, "include_token_sources": True}
        async with http.stream("POST", PATHS["text"], json=body, headers=_bearer(BETA)) as stream:
            lines = stream.aiter_lines()
            ids = [line[4:] async for line in _first(lines, 8) if line.startswith("id: ")]
            assert ids
            # It is another request of that name, which begins anew; the first one goes on.
            taken = await http.post(
                PATHS["text"],
                json=ASKED | {"stream": True},
                headers=_bearer(ACME) | {"Last-Event-ID": ids[0]},
            )
            assert taken.status_code == 200
            assert [line async for line in _first(lines, 4)]


async def _first(lines: AsyncIterator[str], number: int) -> AsyncIterator[str]:
    for _ in range(number):
        yield await anext(lines)
