"""Bodies and clients of the worst kind, in numbers: nothing is the server's fault, and nothing stays behind.

`--bodies` and `--disconnects` say how many.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import httpx
import psutil
import pytest

from evaluation.exactness import Reference
from evaluation.reference.pair import LoadedPair
from tests.integration.gateway.door import MODEL, PATHS, TIMEOUT_S, Gateway, is_idle
from tests.integration.harness.completions import endless_request, tell
from tests.integration.harness.pair import RunningPair, llm_info
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

NUM_AT_ONCE = 8
MAX_GROWTH_MIB = 32.0
"""Of a process after the first tenth: allocators keep some of what they had."""

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, -0.5, 1e308, 2**31, 2**32, 2**63, 2**64, 10**30, "", "a", "none", "auto", "\0",
    "<|im_end|>", "x" * 2000, [], [None], [1], ["a"], [[1]], [[]], {}, {"a": 1}, {"type": "text"}, [{}],
    [{"role": "user", "content": "x"}], [{"role": "tool", "content": "x"}], [{"type": "function"}],
    [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "]"}}]}],
    [{"type": "function", "function": {"name": "f"}}], {"include_usage": True}, MODEL, "wait", -(2**63), [0, 10**9],
    float("nan"), float("-inf"), "\ud800", {"a": {"a": {"a": {"a": {}}}}}, [[[[[[[[]]]]]]]],
]  # fmt: skip
NAMES = [
    "model", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k",
    "seed", "stop", "threshold", "target_llm_usage", "target_avg_params_b", "llm_loss_policy", "run_ahead_depth",
    "include_token_sources", "messages", "prompt", "tools", "tool_choice", "chat_template_kwargs", "echo", "logprobs",
    "add_generation_prompt", "continue_final_message", "separate_reasoning", "response_format", "best_of", "user",
    "parallel_tool_calls", "logit_bias", "suffix",
]  # fmt: skip


def draw_body(draw: random.Random) -> tuple[str, bytes]:
    kind = draw.choice(["chat", "text"])
    body: dict[str, Any] = {"max_tokens": 2}
    body |= {"messages": [{"role": "user", "content": "x"}]} if kind == "chat" else {"prompt": "x"}
    body |= {draw.choice(NAMES): draw.choice(VALUES) for _ in range(draw.choice([1, 1, 2, 4]))}
    data = json.dumps(body).encode()
    if draw.random() < 0.1:
        at = draw.randrange(len(data))
        data = data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
    return PATHS[kind], data


class Memory:
    """How much the processes at the front have, and had first."""

    def __init__(self, door: Gateway, pair: RunningPair) -> None:
        fronts = (pair.front.process, pair.other_front.process)
        self._processes = [psutil.Process(process.pid) for process in (door, *fronts)]
        self._first: list[float] = []

    def note(self) -> None:
        """Takes what they have for the beginning."""
        self._first = self._rss_mib()

    def check(self) -> None:
        """Tells by how much they have grown, which may not be much."""
        grown = [now - first for now, first in zip(self._rss_mib(), self._first, strict=True)]
        tell("gateway and orchestrators grew by, MiB", [round(each, 1) for each in grown])
        assert max(grown) < MAX_GROWTH_MIB

    def _rss_mib(self) -> list[float]:
        return [process.memory_info().rss / 2**20 for process in self._processes]


async def test_bodies_of_any_kind_are_no_fault_of_the_server(
    pair: RunningPair, door: Gateway, request: pytest.FixtureRequest
) -> None:
    num_bodies = request.config.getoption("--bodies")
    draw = random.Random(20)
    memory = Memory(door, pair)
    statuses: Counter[int] = Counter()

    async def send(http: httpx.AsyncClient, path: str, data: bytes) -> None:
        response = await http.post(path, content=data, headers={"Content-Type": "application/json"})
        statuses[response.status_code] += 1
        assert response.status_code < 500, (data, response.text)
        if response.status_code != 200:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    async with httpx.AsyncClient(base_url=door.url, timeout=TIMEOUT_S) as http:
        for first in range(0, num_bodies, NUM_AT_ONCE):
            if first <= num_bodies // 10:
                memory.note()
            await asyncio.gather(*(send(http, *draw_body(draw)) for _ in range(NUM_AT_ONCE)))
    tell("statuses", dict(statuses))
    assert statuses[200] > num_bodies / 20
    assert statuses[400] > num_bodies / 4
    await until(is_idle(pair), 30)
    memory.check()


async def test_clients_that_go_away_at_any_time_leave_no_slot(
    pair: RunningPair,
    door: Gateway,
    references: list[Reference],
    reference_pair: LoadedPair,
    request: pytest.FixtureRequest,
) -> None:
    num_disconnects = request.config.getoption("--disconnects")
    draw = random.Random(21)
    memory = Memory(door, pair)
    prompt = list(endless_request(references[0], 900, reference_pair).token_ids.token_ids)

    async def leave() -> None:
        stream, seed, after_s = draw.random() < 0.5, draw.randrange(2**32), draw.choice([0.0, 0.02, 0.2, 1.0])
        # Greedy would find its end; a hot one runs on.
        fields = {"prompt": prompt, "temperature": 2, "seed": seed, "threshold": 0, "stream": stream, "n": 2}
        body = json.dumps(fields).encode()
        head = f"POST {PATHS['text']} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
        _reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
        await asyncio.sleep(after_s)
        if draw.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()

    num_seen_busy = 0

    async def watch() -> None:
        nonlocal num_seen_busy
        while True:
            num_seen_busy += (await llm_info(pair.llm)).load.num_active_sequences > 0
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    for first in range(0, num_disconnects, NUM_AT_ONCE):
        if first <= num_disconnects // 10:
            memory.note()
        await asyncio.gather(*(leave() for _ in range(NUM_AT_ONCE)))
    watching.cancel()
    await until(is_idle(pair), 30)
    # Who had stood at a closed door would have left nothing behind either.
    tell("times that an LLM was seen at work", num_seen_busy)
    assert num_seen_busy > num_disconnects / NUM_AT_ONCE / 10
    memory.check()
