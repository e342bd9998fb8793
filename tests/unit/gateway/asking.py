"""How tests ask a gateway before a scripted orchestrator, and the shape that its errors have."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx

from tests.unit.gateway.scripted import RunningGateway, ScriptedOrchestrator, says

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CODE = grpc.StatusCode
THOUGHT = "<think>\nhm\n</think>\n\nYes."
CALL = 'On it.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "add"}}]


async def events(response: httpx.Response) -> list[Any]:
    """The data of all events but the last, which has to be [DONE]."""
    found = [line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: ")]
    assert found.pop() == "[DONE]"
    assert "[DONE]" not in found
    return [json.loads(each) for each in found]


async def streamed(running: RunningGateway, path: str = CHAT, **fields: Any) -> list[Any]:
    async with running.http.stream("POST", path, json={"stream": True} | fields) as response:
        assert response.status_code == 200
        return await events(response)


async def asked(running: RunningGateway, path: str = CHAT, **fields: Any) -> Any:
    response = await running.http.post(path, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def orchestrator(script: Any = None, **options: Any) -> ScriptedOrchestrator:
    return ScriptedOrchestrator(script or says("Hello, world."), **options)


def assert_error(response: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    [(key, error)] = response.json().items()
    assert key == "error"
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["param"] == param
    return dict(error)
