"""Streams that are quiet, left, or broken and gone on with."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from trivium.v1 import orchestrator_pb2 as pb

from tests.serving import until
from tests.unit.gateway.asking import CHAT, THOUGHT, assert_error, orchestrator
from tests.unit.gateway.scripted import QUESTION, messages, says, serving, waits


async def test_stream_is_not_to_be_collected_by_proxies() -> None:
    async with serving() as running:
        response = await running.http.post(CHAT, json=QUESTION | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("before", [[], messages("Hello, ")[:1]])
async def test_silence_before_and_after_the_first_token_is_filled(before: list[pb.GenerateResponse]) -> None:
    goes_on = asyncio.Event()

    async def script(request: pb.GenerateRequest) -> Any:
        for response in before:
            yield response
        await goes_on.wait()
        async for response in says("late")(request):
            yield response

    async with (
        serving(orchestrator(script), keep_alive_s=0.1) as running,
        running.http.stream("POST", CHAT, json=QUESTION | {"stream": True}) as response,
    ):
        num_comments = 0
        async for line in response.aiter_lines():
            num_comments += line == ": keep-alive"
            if num_comments == 2:
                goes_on.set()
    assert line == ""
    assert num_comments >= 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before", [[], messages("Hello, ")[:1]])
async def test_client_that_goes_away_ends_the_work_at_once(stream: bool, before: list[pb.GenerateResponse]) -> None:
    async with serving(orchestrator(waits(before=before))) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        body = json.dumps(QUESTION | {"stream": stream, "n": 3}).encode()
        writer.write(head(len(body)) + body)
        await until(lambda: running.orchestrator.num_running == 3)
        if stream and before:
            assert await reader.read(64)
        writer.close()
        await until(lambda: running.orchestrator.num_running == 0, 1.0)
        await until(lambda: running.gateway.counts.num_active == 0)
        assert running.gateway.counts.num_disconnects == 1


def head(num_bytes: int) -> bytes:
    lines = (f"POST {CHAT} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {num_bytes}")
    return "\r\n".join([*lines, "", ""]).encode()


async def test_stream_that_broke_goes_on_after_any_of_its_events() -> None:
    body = QUESTION | {"stream": True}
    async with serving(orchestrator(says(THOUGHT))) as running:
        pieces = pieces_of(await running.http.post(CHAT, json=body))
        places = [place for place, piece in enumerate(pieces) if piece.startswith("id: ")]
        assert len(places) > 5
        for place in places:
            event_id = pieces[place].split("\n")[0].removeprefix("id: ")
            rest = pieces_of(await running.http.post(CHAT, json=body, headers={"Last-Event-ID": event_id}))
            joined = pieces[: place + 1] + rest
            assert [texts(piece) for piece in joined if any(texts(piece))] == [
                texts(piece) for piece in pieces if any(texts(piece))
            ]
            assert joined[-1] == "data: [DONE]"
        first, *resumed = running.orchestrator.requests
    for request in resumed:
        assert request.HasField("resume_from")
        assert (request.request_id, request.sampling) == (first.request_id, first.sampling)


def pieces_of(response: httpx.Response) -> list[str]:
    return [piece for piece in response.text.split("\n\n") if piece]


def texts(piece: str) -> tuple[str, str]:
    data = piece.rpartition("data: ")[2]
    choices = [] if data == "[DONE]" else json.loads(data)["choices"]
    delta = choices[0]["delta"] if choices else {}
    return delta.get("reasoning_content", ""), delta.get("content", "")


@pytest.mark.parametrize(
    ("event_id", "fields"),
    [("x", {"stream": True}), ("a:-1", {"stream": True}), ("a:1", {}), ("a:1", {"stream": True, "n": 2})],
)
async def test_event_id_that_cannot_be_gone_on_with_is_refused(event_id: str, fields: dict[str, Any]) -> None:
    async with serving() as running:
        response = await running.http.post(CHAT, json=QUESTION | fields, headers={"Last-Event-ID": event_id})
    assert_error(response, 400, "Last-Event-ID")
