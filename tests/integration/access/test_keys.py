"""An orchestrator that asks for keys, as a process: who is let in while the file of keys changes under traffic."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest

from services.client import AsyncClient, CallFailed, Options, text_request
from services.common.access.keys_file import key_digest, key_line, new_key
from tests.integration.harness.greedy import callers
from tests.integration.harness.pair import RunningPair
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

logger = logging.getLogger(__name__)

PROMPT = "Ann starts with 24 stones."
REQUEST = text_request(PROMPT, Options(max_new_tokens=16))
AT_ITS_LIMIT, NUM_TURNS = 2, 3


def _write(path: Path, keys: list[str]) -> None:
    lines = "\n".join(key_line("acme", key) for key in keys)
    unfinished = path.with_suffix(".new")
    unfinished.write_text(f"tenants:\n  acme: {{max_concurrent_requests: 16}}\nkeys:\n{lines}\n")
    unfinished.replace(path)


async def _code(address: str, key: str | None) -> grpc.StatusCode:
    async with AsyncClient(address, api_key=key) as client:
        try:
            await client.complete(REQUEST)
        except CallFailed as failure:
            return failure.code
    return grpc.StatusCode.OK


async def test_keys_are_replaced_under_traffic_without_a_failed_stream_and_nothing_is_logged_of_them(
    pair: RunningPair, tmp_path: Path
) -> None:
    path, old, new = tmp_path / "keys.yaml", new_key(), new_key()
    _write(path, [old])
    stopping = asyncio.Event()
    num_answers = {old: 0, new: 0}

    async def ask(key: str) -> None:
        async with AsyncClient(front.address, api_key=key, retry_s=0.0) as client:
            while not stopping.is_set():
                assert len((await client.complete(REQUEST)).tokens) == 16
                num_answers[key] += 1

    async with pair.running_orchestrator("keyed", "--keys-file", str(path)) as front:
        assert await _code(front.address, None) is grpc.StatusCode.UNAUTHENTICATED
        assert await _code(front.address, new) is grpc.StatusCode.UNAUTHENTICATED
        asking = [asyncio.create_task(ask(old))]
        await until(lambda: num_answers[old] > 2 or asking[0].done(), 120)
        _write(path, [old, new])
        await until(lambda: _is_let_in(front.address, new), 30)
        asking.append(asyncio.create_task(ask(new)))
        await until(lambda: num_answers[new] > 2 or any(one.done() for one in asking), 120)
        path.write_text(f"keys: [{old}")
        await until(lambda: "keys_file: keys go on as they were" in front.process.log, 30)
        assert await _code(front.address, new) is grpc.StatusCode.OK
        stopping.set()
        await asyncio.gather(*asking)
        _write(path, [new])
        await until(lambda: _is_kept_out(front.address, old), 30)
        assert await _code(front.address, new) is grpc.StatusCode.OK
        log = front.process.log
    assert all(num > 2 for num in num_answers.values())
    secrets = (old, new, key_digest(old).hex(), key_digest(new).hex(), PROMPT)
    assert not any(secret in log for secret in secrets)


async def _is_let_in(address: str, key: str) -> bool:
    return await _code(address, key) is grpc.StatusCode.OK


async def _is_kept_out(address: str, key: str) -> bool:
    return await _code(address, key) is grpc.StatusCode.UNAUTHENTICATED


async def test_unusable_keys_file_ends_the_process_before_it_listens(pair: RunningPair, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("tenants: {}\n")
    front = pair.orchestrator("unusable", "--keys-file", str(path))
    front.launch()
    assert await front.process.until_exited() == 1
    assert f"{path}: keys: Field required" in front.process.log


@pytest.mark.alone
async def test_tenant_at_ten_times_its_limit_does_not_slow_another_down(pair: RunningPair, tmp_path: Path) -> None:
    path, greedy, modest = tmp_path / "keys.yaml", new_key(), new_key()
    path.write_text(
        f"tenants: {{greedy: {{max_concurrent_requests: {AT_ITS_LIMIT}}}, modest: {{}}}}\nkeys:\n"
        f"{key_line('greedy', greedy)}\n{key_line('modest', modest)}\n"
    )

    async def first_token_p95_s(client: AsyncClient) -> float:
        waits_s = []
        for _ in range(40):
            start = time.monotonic()
            async with aclosing(client.generate(REQUEST)) as parts:
                await anext(parts)
                waits_s.append(time.monotonic() - start)
                async for _part in parts:
                    pass
        return sorted(waits_s)[int(len(waits_s) * 0.95)]

    p95_s: dict[int, list[float]] = {AT_ITS_LIMIT: [], 10 * AT_ITS_LIMIT: []}
    num_refused = 0
    async with (
        pair.running_orchestrator("fair", "--keys-file", str(path)) as front,
        AsyncClient(front.address, api_key=modest) as client,
    ):
        await first_token_p95_s(client)
        # In turns, since machines are shared.
        for num_callers in list(p95_s) * NUM_TURNS:
            async with callers(front.address, greedy, num_callers) as refusals:
                p95_s[num_callers].append(await first_token_p95_s(client))
            num_refused += refusals.number
    limited, flooded = (statistics.median(values) for values in p95_s.values())
    logger.info("p95 to the first token, s, beside a tenant at its limit and at ten times that: %s", p95_s)
    assert num_refused > 50
    # The goal is 20%; a busy machine makes more of it.
    assert flooded < limited * 1.2 + 0.1
