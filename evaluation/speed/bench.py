"""Measures a running reference pair against the in-process loop, side by side.

In each repetition every setting takes its turn: the loop of `evaluation.in_process`, then the services at depth 0 and
with run-ahead, at several numbers of concurrent streams. Each turn gets prompts of its own, so that no prefix cache
helps. What is reported are medians with their spread, and ratios within a repetition, since machines are shared and
noisy.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from rich.table import Table
from trivium.v1 import orchestrator_pb2

from evaluation.in_process import decode
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS
from evaluation.reference.pair import LoadedPair, load_pair
from evaluation.speed.prompts import num_prompts, prompts
from evaluation.speed.spread import median, spread
from services.client import AsyncClient, Options, tokens_request
from services.common.progress import track


@dataclass(slots=True)
class Setting:
    """One row of the result.

    Attributes:
        name: What was measured.
        num_streams: Concurrent streams.
        depth: Run-ahead depth; None for the in-process loop.
        tokens_per_s: One value a repetition.
        orchestrator_cpu_us: Orchestrator CPU per token, in microseconds, one value a repetition.
        messages: gRPC messages between orchestrator, slm, router and llm per token.
        client_messages: gRPC messages to clients per token.
        redis_commands: Redis round trips per token.
        dropped_drafts: Drafts dropped per token.
    """

    name: str
    num_streams: int
    depth: int | None
    tokens_per_s: list[float] = field(default_factory=list)
    orchestrator_cpu_us: list[float] = field(default_factory=list)
    messages: list[float] = field(default_factory=list)
    client_messages: list[float] = field(default_factory=list)
    redis_commands: list[float] = field(default_factory=list)
    dropped_drafts: list[float] = field(default_factory=list)


def measure(
    address: str, *, repetitions: int = 5, streams: Sequence[int] = (1, 8, 32), depth: int = 12
) -> list[Setting]:
    """Measures the pair behind the orchestrator at `address`.

    Args:
        address: "host:port".
        repetitions: Turns of every setting.
        streams: Numbers of concurrent streams.
        depth: Run-ahead depth that is compared with depth 0.

    Returns:
        The in-process loop first, then one setting for each depth and number of streams.
    """
    torch.set_num_threads(1)
    pair = load_pair()
    settings = [Setting("in-process loop", 1, None)]
    for num_streams in streams:
        settings.append(Setting("services, depth 0", num_streams, 0))
        settings.append(Setting(f"services, depth {depth}", num_streams, depth))
    asyncio.run(_measure(address, pair, prompts(pair), settings, repetitions))
    return settings


async def _measure(
    address: str,
    pair: LoadedPair,
    drawn: Iterator[tuple[int, ...]],
    settings: Sequence[Setting],
    repetitions: int,
) -> None:
    async with AsyncClient(address) as client:
        for setting in settings:
            # A first turn that doesn't count warms caches and allocators.
            await _turn(client, pair, drawn, Setting(setting.name, setting.num_streams, setting.depth))
        for _ in track(range(repetitions), "bench"):
            for setting in settings:
                await _turn(client, pair, drawn, setting)


async def _turn(
    client: AsyncClient,
    pair: LoadedPair,
    drawn: Iterator[tuple[int, ...]],
    setting: Setting,
) -> None:
    chosen = list(itertools.islice(drawn, num_prompts(setting.num_streams)))
    if setting.depth is None:
        start = time.perf_counter()
        num_tokens = sum(len(decode(pair, prompt, pair.rule(), max_new_tokens=MAX_NEW_TOKENS)) for prompt in chosen)
        setting.tokens_per_s.append(num_tokens / (time.perf_counter() - start))
        return
    before, start = await _load(client), time.perf_counter()
    slots = asyncio.Semaphore(setting.num_streams)
    counts = await asyncio.gather(*(_generate(client, prompt, setting.depth, slots) for prompt in chosen))
    elapsed_s, after = time.perf_counter() - start, await _load(client)
    num_tokens = sum(counts)
    setting.tokens_per_s.append(num_tokens / elapsed_s)
    setting.orchestrator_cpu_us.append((after.cpu_s - before.cpu_s) / num_tokens * 1e6)
    setting.messages.append((after.num_peer_messages - before.num_peer_messages) / num_tokens)
    setting.client_messages.append((after.num_client_messages - before.num_client_messages) / num_tokens)
    setting.redis_commands.append((after.num_redis_commands - before.num_redis_commands) / num_tokens)
    setting.dropped_drafts.append((after.num_drafts_dropped - before.num_drafts_dropped) / num_tokens)


async def _generate(
    client: AsyncClient,
    prompt: tuple[int, ...],
    depth: int,
    slots: asyncio.Semaphore,
) -> int:
    request = tokens_request(prompt, Options(max_new_tokens=MAX_NEW_TOKENS, run_ahead_depth=depth))
    async with slots:
        return sum([len(response.token_ids) async for response in client.generate(request)])


async def _load(
    client: AsyncClient,
) -> orchestrator_pb2.OrchestratorLoad:
    return (await client.server_info()).load


def table(settings: Sequence[Setting]) -> Table:
    """Lays the settings out, with medians and, for speeds, the least and largest value."""
    result = Table(
        "", "streams", "tokens/s", "x in-process", "CPU µs/token", "messages/token", "to clients", "Redis", "dropped"
    )
    baseline = settings[0].tokens_per_s
    for setting in settings:
        ratios = [mine / loop for mine, loop in zip(setting.tokens_per_s, baseline, strict=True)]
        result.add_row(
            setting.name,
            str(setting.num_streams),
            spread(setting.tokens_per_s),
            spread(ratios, 2),
            median(setting.orchestrator_cpu_us),
            median(setting.messages, 2),
            median(setting.client_messages, 2),
            median(setting.redis_commands, 3),
            median(setting.dropped_drafts, 2),
        )
    return result


def as_json(settings: Sequence[Setting]) -> list[dict[str, object]]:
    """All values of all repetitions, for a file."""
    return [asdict(setting) for setting in settings]
