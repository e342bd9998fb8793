"""Gateways as real processes before the shared pair, and how tests ask them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.harness.forked import fork
from tests.integration.harness.pair import RunningPair, front_info, llm_info, slm_load
from tests.integration.harness.processes import START_TIMEOUT_S, Process
from tests.serving import until

MODEL = "pair"
PATHS = {"chat": "/v1/chat/completions", "text": "/v1/completions"}
TIMEOUT_S = 120.0


class Gateway(Process):
    """A gateway that runs."""

    def __init__(self, orchestrators: str, *arguments: str, directory: Path, health_port: int = 0) -> None:
        flags = ("--orchestrator", orchestrators, "--port", "0", "--model-name", MODEL, *arguments)
        flags += ("--health-port", str(health_port))
        super().__init__("services.gateway", *flags, directory=directory, launch=fork)
        self._health_port = health_port

    @property
    def url(self) -> str:
        return f"http://{self.target}"

    @property
    def port(self) -> int:
        return int(self.target.rpartition(":")[2])

    async def until_healthy(self) -> None:
        await self.until_listening()
        health_url = f"http://127.0.0.1:{self._health_port}" if self._health_port else self.url
        async with httpx.AsyncClient(base_url=health_url) as http:

            async def is_healthy() -> bool:
                return (await http.get("/health")).status_code == 200

            await until(is_healthy, START_TIMEOUT_S, self._check_alive)


@asynccontextmanager
async def running_gateway(
    orchestrators: str, *arguments: str, directory: Path, health_port: int = 0
) -> AsyncIterator[Gateway]:
    gateway = Gateway(orchestrators, *arguments, directory=directory, health_port=health_port)
    try:
        await gateway.until_healthy()
        yield gateway
    finally:
        gateway.kill()


@pytest.fixture(scope="session")
def door(pair: RunningPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway before both orchestrators."""
    addresses = f"{pair.front.address},{pair.other_front.address}"
    gateway = Gateway(addresses, directory=tmp_path_factory.mktemp("gateway"))
    try:
        asyncio.run(gateway.until_healthy())
        yield gateway
    finally:
        gateway.kill()


@dataclass
class Said:
    """A choice, however it came."""

    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    tokens: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Answer:
    """A response, however it came."""

    status: int
    error: dict[str, Any] | None = None
    choices: dict[int, Said] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        """What each choice thinks and says, in one."""
        return [said.reasoning + said.text for _, said in sorted(self.choices.items())]


async def ask(
    http: httpx.AsyncClient,
    kind: str,
    fields: dict[str, Any],
    *,
    stream: bool,
    headers: dict[str, str] | None = None,
    on_event: Callable[[], None] = lambda: None,
) -> Answer:
    """Sends a request and reads the answer, which has to keep to the rules of its form.

    Args:
        http: Who sends it.
        kind: One of `PATHS`.
        fields: Of the body.
        stream: Whether it is to come as events.
        headers: Beside the body's type.
        on_event: Called after each event of a stream.
    """
    body = dict(fields)
    if stream:
        body = {"stream_options": {"include_usage": True}} | body | {"stream": True}
    sent = {"Content-Type": "application/json"} | (headers or {})
    # Escaped, so that halves of surrogate pairs can be sent as well.
    async with http.stream("POST", PATHS[kind], content=json.dumps(body), headers=sent) as response:
        if response.status_code != 200:
            error = json.loads(await response.aread())["error"]
            assert set(error) == {"message", "type", "param", "code"}
            return Answer(response.status_code, error)
        if stream:
            lines = []
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    lines.append(line)
                    on_event()
            return _joined(lines, kind)
        return _whole(json.loads(await response.aread()), kind)


def _whole(answer: dict[str, Any], kind: str) -> Answer:
    found = Answer(200, usage=answer["usage"])
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    for choice in answer["choices"]:
        message = choice["message"] if kind == "chat" else {"content": choice["text"]}
        found.choices[choice["index"]] = Said(
            message["content"] or "",
            message.get("reasoning_content", ""),
            choice["finish_reason"],
            choice.get("tokens", []),
        )
    return found


def _joined(lines: list[str], kind: str) -> Answer:
    assert lines.pop() == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    errors = [chunk["error"] for chunk in chunks if "error" in chunk]
    assert not errors, f"the stream failed after {len(chunks) - 1} chunks: {errors}"
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    found = Answer(200, usage=chunks.pop()["usage"])
    assert all(chunk["usage"] is None for chunk in chunks)
    for chunk in chunks:
        [choice] = chunk["choices"]
        said = found.choices.setdefault(choice["index"], Said())
        delta = choice["delta"] if kind == "chat" else {"content": choice["text"]}
        assert said.finish is None, "a chunk after the last"
        if kind == "chat":
            assert ("role" in delta) == (said == Said() and choice["finish_reason"] is None and "role" in delta)
        said.text += delta.get("content", "")
        said.reasoning += delta.get("reasoning_content", "")
        said.tokens += choice.get("tokens", [])
        said.finish = choice["finish_reason"]
        assert said.finish is None or not any(delta.values())
    assert all(said.finish for said in found.choices.values())
    return found


def is_idle(pair: RunningPair) -> Callable[[], Awaitable[bool]]:
    """Tells whether no service has anything to do."""

    async def idle() -> bool:
        fronts = [await front_info(front) for front in (pair.front, pair.other_front)]
        active = sum(front.load.num_active_requests for front in fronts)
        sequences = (await slm_load(pair.slm)).num_active_sequences
        return not (active or sequences or (await llm_info(pair.llm)).load.num_active_sequences)

    return idle
