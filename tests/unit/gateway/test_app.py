"""Paths, and what belongs to every response, before a scripted orchestrator."""

import asyncio

import pytest

from tests.serving import until
from tests.unit.gateway.asking import CHAT, asked, assert_error, orchestrator, streamed
from tests.unit.gateway.scripted import MODEL, QUESTION, messages, serving, waits


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404), ("POST", "/v1/embeddings", 404), ("GET", CHAT, 405), ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/nope", 404), ("GET", "/v1/models/", 404), ("PUT", "/health", 405), ("OPTIONS", CHAT, 405),
    ],
)  # fmt: skip
async def test_path_or_method_that_is_none_has_the_shape_of_errors(method: str, path: str, status: int) -> None:
    async with serving() as running:
        response = await running.http.request(method, path)
    assert_error(response, status, "model" if path.startswith("/v1/models/") else None)


async def test_model_is_listed_and_described() -> None:
    async with serving() as running:
        listed = (await running.http.get("/v1/models")).json()
        described = (await running.http.get(f"/v1/models/{MODEL}")).json()
    assert listed == {"object": "list", "data": [described]}
    assert described["object"] == "model"
    assert described["owned_by"]
    assert isinstance(described["created"], int)


async def test_unknown_model_is_not_found() -> None:
    async with serving() as running:
        for response in (
            await running.http.post(CHAT, json=QUESTION | {"model": "gpt-5"}),
            await running.http.get("/v1/models/gpt-5"),
        ):
            assert assert_error(response, 404, "model")["code"] == "model_not_found"
        assert (await asked(running, **QUESTION, model=MODEL))["model"] == MODEL


async def test_nothing_is_served_before_an_orchestrator_has_answered() -> None:
    async with serving(orchestrator(is_away=True)) as running:
        for response in (
            await running.http.get("/health"),
            await running.http.get("/v1/models"),
            await running.http.post(CHAT, json=QUESTION),
        ):
            assert "10.0.0.1" not in assert_error(response, 503)["message"]
        assert (await running.http.get("/live")).status_code == 200
        running.orchestrator.is_away = False
        await asked(running, **QUESTION)
        assert (await running.http.get("/health")).json() == {"status": "ok", "model": MODEL}


async def test_closing_gateway_sends_callers_away_with_their_answer_and_ends_what_runs() -> None:
    async with serving(orchestrator(waits(0.3, before=messages("Hello, ")[:1]))) as running:
        await asked(running, **QUESTION)
        stream = asyncio.create_task(streamed(running, **QUESTION))
        await until(lambda: running.orchestrator.num_running)
        running.gateway.door.is_closing = True
        answered = await running.http.post(CHAT, json=QUESTION)
        assert (answered.status_code, answered.headers["connection"]) == (200, "close")
        assert_error(await running.http.get("/health"), 503)
        assert (await stream)[-1]["choices"][0]["finish_reason"] == "stop"
        await asyncio.wait_for(running.gateway.door.idle.wait(), 5)


async def test_metrics_count_requests_tokens_and_first_tokens() -> None:
    async with serving() as running:
        await asked(running, **QUESTION)
        await running.http.get("/nope")
        response = await running.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'trivium_gateway_responses_total{status="200"} 1.0',
        'trivium_gateway_responses_total{status="404"} 1.0',
        'trivium_gateway_tokens_total{author="llm"} 5.0',
        "trivium_gateway_first_token_seconds_count 1.0",
    ):
        assert line in response.text


async def test_request_id_is_taken_and_given_back() -> None:
    async with serving() as running:
        given = await running.http.post(CHAT, json=QUESTION, headers={"X-Request-Id": "mine-1"})
        chosen = await running.http.get("/nope")
        odd = await running.http.get("/nope", headers={"X-Request-Id": "x" * 200})
    assert given.headers["x-request-id"] == "mine-1"
    assert len(chosen.headers["x-request-id"]) == len(odd.headers["x-request-id"]) == 32


@pytest.mark.parametrize("origins", [(), ("https://page.example",)])
async def test_pages_of_other_origins_may_call_only_where_that_is_set(origins: tuple[str, ...]) -> None:
    headers = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    async with serving(cors_origins=origins) as running:
        preflight = await running.http.options(CHAT, headers=headers)
        answer = await running.http.post(CHAT, json=QUESTION, headers=headers)
    allowed = "https://page.example" if origins else None
    assert answer.headers.get("access-control-allow-origin") == allowed
    assert (preflight.status_code == 200) == bool(origins)
