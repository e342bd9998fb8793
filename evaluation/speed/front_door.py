"""Measures what HTTP costs: a gateway before a running reference pair against gRPC alone, side by side.

In each repetition gRPC and HTTP take turns at each number of streams, and each goes first as often as the other. What
is reported are medians, and ratios within a repetition, since machines are shared and noisy; CPU time a token hardly
depends on what else runs. Both are read by clients that do as little as they can, which `raw_http` has for HTTP, so
that it is the servers that are compared.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial

import psutil
import uvloop
from rich.table import Table

from evaluation.reference.corpus.samples import MAX_NEW_TOKENS
from evaluation.reference.pair import load_pair
from evaluation.speed.prompts import num_prompts, prompts
from evaluation.speed.raw_http import Connection, Reading
from evaluation.speed.spread import median, spread
from services.client import AsyncClient, Options, tokens_request
from services.common.progress import track

GRPC, HTTP = "gRPC", "HTTP"

Read = Callable[[Sequence[int]], Awaitable[Reading]]
"""Asks for the answer to a prompt of token ids, and reads it to its end."""


@dataclass(slots=True)
class Row:
    """One way in at one number of streams. The lists have one value a repetition.

    Attributes:
        way: `GRPC` or `HTTP`.
        num_streams: Concurrent streams.
        tokens_per_s: Of all streams together.
        first_token_ms: Milliseconds from a request to its first token, the median of the turn's requests.
        gateway_cpu_us: CPU of the gateway per token, in microseconds.
        orchestrator_cpu_us: The same of the orchestrator.
        client_cpu_us: The same of the client that reads.
        messages: Messages that clients got per token: gRPC's, or events.
        peer_messages: Messages between the orchestrator and its replicas per token.
    """

    way: str
    num_streams: int
    tokens_per_s: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)
    gateway_cpu_us: list[float] = field(default_factory=list)
    orchestrator_cpu_us: list[float] = field(default_factory=list)
    client_cpu_us: list[float] = field(default_factory=list)
    messages: list[float] = field(default_factory=list)
    peer_messages: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Args:
        address: Where the only orchestrator is, as "host:port".
        http_address: The same of the only gateway before it, in plain text.
        gateway_pid: Its process.
    """

    address: str
    http_address: str
    gateway_pid: int


def measure(
    subject: Subject,
    *,
    repetitions: int = 5,
    streams: Sequence[int] = (1, 32),
    num_requests: Callable[[int], int] = num_prompts,
) -> list[Row]:
    """Measures both ways into a running reference pair.

    Args:
        subject: The pair.
        repetitions: Turns of each row.
        streams: Numbers of concurrent streams.
        num_requests: How many a turn has, for a number of streams.

    Returns:
        For each number of streams, gRPC's row, then HTTP's.
    """
    drawn = prompts(load_pair())
    rows = [Row(way, num_streams) for num_streams in streams for way in (GRPC, HTTP)]
    uvloop.run(_measure(subject, drawn, rows, repetitions, num_requests))
    return rows


async def _measure(
    subject: Subject,
    drawn: Iterator[tuple[int, ...]],
    rows: Sequence[Row],
    repetitions: int,
    num_requests: Callable[[int], int],
) -> None:
    async with AsyncClient(subject.address) as client:
        gateway = psutil.Process(subject.gateway_pid)
        for repetition in track(range(-1, repetitions), "bench"):
            for row in rows if repetition % 2 else reversed(rows):
                chosen = list(itertools.islice(drawn, num_requests(row.num_streams)))
                # A first turn that doesn't count warms caches and allocators.
                counted = row if repetition >= 0 else Row(row.way, row.num_streams)
                await _turn(subject, client, gateway, chosen, counted)


async def _turn(
    subject: Subject, client: AsyncClient, gateway: psutil.Process, chosen: Iterable[tuple[int, ...]], row: Row
) -> None:
    waiting, readings = iter(chosen), list[Reading]()

    async def stream(read: Read) -> None:
        for prompt in waiting:
            readings.append(await read(prompt))

    async with AsyncExitStack() as stack:
        reads: list[Read] = [partial(_over_grpc, client)] * row.num_streams
        if row.way == HTTP:
            connections = [
                await stack.enter_async_context(Connection.open(subject.http_address)) for _ in range(row.num_streams)
            ]
            reads = [partial(connection.complete, max_tokens=MAX_NEW_TOKENS) for connection in connections]
        before, start = await _spent(client, gateway), time.perf_counter()
        await asyncio.gather(*map(stream, reads))
        elapsed_s, after = time.perf_counter() - start, await _spent(client, gateway)
    num_tokens = sum(reading.num_tokens for reading in readings)
    row.tokens_per_s.append(num_tokens / elapsed_s)
    row.first_token_ms.append(statistics.median(reading.first_token_s for reading in readings) * 1e3)
    row.messages.append(sum(reading.num_messages for reading in readings) / num_tokens)
    row.gateway_cpu_us.append((after.gateway_s - before.gateway_s) / num_tokens * 1e6)
    row.orchestrator_cpu_us.append((after.orchestrator_s - before.orchestrator_s) / num_tokens * 1e6)
    row.client_cpu_us.append((after.client_s - before.client_s) / num_tokens * 1e6)
    row.peer_messages.append((after.num_peer_messages - before.num_peer_messages) / num_tokens)


@dataclass(frozen=True, slots=True)
class _Spent:
    """What the processes have used so far: CPU seconds of each, and messages."""

    gateway_s: float
    orchestrator_s: float
    client_s: float
    num_peer_messages: int


async def _spent(client: AsyncClient, gateway: psutil.Process) -> _Spent:
    load = (await client.server_info()).load
    times = gateway.cpu_times()
    return _Spent(times.user + times.system, load.cpu_s, time.process_time(), load.num_peer_messages)


async def _over_grpc(client: AsyncClient, prompt: Sequence[int]) -> Reading:
    start, first_token_s, num_tokens, num_messages = time.perf_counter(), 0.0, 0, 0
    async for response in client.generate(tokens_request(prompt, Options(max_new_tokens=MAX_NEW_TOKENS))):
        num_tokens += len(response.token_ids)
        num_messages += 1
        if num_tokens and not first_token_s:
            first_token_s = time.perf_counter() - start
    return Reading(num_tokens, num_messages, first_token_s)


def ratios(grpc: Row, http: Row) -> list[float]:
    """What is left of gRPC's tokens/s through HTTP, in each repetition."""
    return [mine / direct for mine, direct in zip(http.tokens_per_s, grpc.tokens_per_s, strict=True)]


def table(rows: Sequence[Row]) -> Table:
    """Lays the rows out, with medians and, for speeds, the least and largest value."""
    result = Table(
        "", "streams", "tokens/s", "x gRPC", "first token ms", "messages", "gateway", "orchestrator", "client",
        caption="Per token: messages to clients, and CPU µs of the gateway, the orchestrator and the client.",
    )  # fmt: skip
    for grpc, http in zip(rows[::2], rows[1::2], strict=True):
        for row in (grpc, http):
            result.add_row(
                row.way,
                str(row.num_streams),
                spread(row.tokens_per_s),
                spread(ratios(grpc, row), 2),
                median(row.first_token_ms, 1),
                median(row.messages, 2),
                median(row.gateway_cpu_us),
                median(row.orchestrator_cpu_us),
                median(row.client_cpu_us),
            )
    return result


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """All values of all repetitions, for a file."""
    return [asdict(row) for row in rows]
