"""Hours of trouble for one pair: `python -m tests.integration.soak --minutes 60`.

Streams run all the time, some are cancelled, some clients go away, processes are killed and started again, Redis is
stopped for seconds. Every stream that is to end is held to its reference decoding; one whose orchestrator dies is
gone on with at the other one by the client. The log of each is held to what its client got: it may end early where
its orchestrator or Redis was gone, but has no hole. In the end nothing may be left: no sequence on any replica, and
no more memory, files and threads in a process than it had after its first minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from redis.asyncio import Redis

from evaluation.exactness import Reference, reference_decodings, suite_prompts
from evaluation.reference.pair import load_pair
from services.client import AsyncClient, CallFailed
from tests.integration.harness.completions import Completion, assert_is_reference, request_for
from tests.integration.harness.finished_logs import logged_tokens
from tests.integration.harness.pair import Replica, RunningPair, front_info, llm_info, slm_load
from tests.serving import until

_WARM_S = 60.0
_SAMPLE_S = 15.0
_LOG_S = 1.0
_VICTIMS = ("slm", "router", "llm", "other_llm", "front", "other_front")


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds."""

    rss_mb: float
    num_files: int
    num_threads: int


class Soak:
    """One run.

    Args:
        pair: The pair, running.
        references: What streams decode.
        redis: The Redis of the pair.
        draw: Where chance comes from.
        kill_interval_s: Mean seconds between two faults.
    """

    def __init__(
        self,
        pair: RunningPair,
        references: Sequence[Reference],
        redis: Redis,
        draw: random.Random,
        kill_interval_s: float,
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.samples: dict[tuple[str, int], list[Sample]] = {}
        self._pair = pair
        self._references = references
        self._redis = redis
        self._draw = draw
        self._kill_interval_s = kill_interval_s
        self._over = asyncio.Event()

    async def run(self, seconds: float, num_streams: int) -> None:
        """Runs until the time is over and the last stream has ended."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._trouble())
            tasks.create_task(self._watch())
            for number in range(num_streams):
                tasks.create_task(self._stream(number))
            await asyncio.sleep(seconds)
            self._over.set()

    async def until_empty(self) -> None:
        """Waits until no replica holds a sequence."""
        pair = self._pair

        async def is_empty() -> bool:
            loads = [await slm_load(pair.slm), *[(await llm_info(llm)).load for llm in (pair.llm, pair.other_llm)]]
            fronts = [(await front_info(front)).load for front in (pair.front, pair.other_front)]
            held = sum(load.num_active_sequences for load in loads)
            return held + sum(load.num_active_requests + load.num_waiting_requests for load in fronts) == 0

        await until(is_empty, timeout_s=30)

    # --- clients

    async def _stream(self, number: int) -> None:
        while not self._over.is_set():
            reference = self._draw.choice(self._references)
            name = f"{number}-{self._draw.getrandbits(64):x}"
            kind = self._draw.choices(("finished", "cancelled", "disconnected"), (8, 1, 1))[0]
            leave_after = self._draw.randrange(1, 40) if kind != "finished" else sys.maxsize
            kind = await self._generate(name, reference, kind, leave_after)
            self.outcomes[kind] += 1
            if kind == "finished":
                await self._compare_log(name, reference)

    async def _generate(self, name: str, reference: Reference, kind: str, leave_after: int) -> str:
        """Runs a request to its end, over as many orchestrators as it takes. Returns how it ended."""
        completion = Completion()
        targets = [self._pair.front.address, self._pair.other_front.address]
        async with AsyncClient(targets, timeout_s=300, retry_s=300) as client:
            request = request_for(reference, request_id=name)
            async with aclosing(client.generate(request, on_retry=self._resumed)) as responses:
                async for response in responses:
                    completion.add(response)
                    if len(completion.token_ids) >= leave_after and not completion.finish:
                        if kind == "cancelled":
                            await client.cancel(name)
                        return kind
        assert_is_reference(completion, reference)
        return "finished"

    def _resumed(self, _failure: CallFailed) -> None:
        self.outcomes["resumed"] += 1

    async def _compare_log(self, name: str, reference: Reference) -> None:
        # It is written when the stream has ended, but the stream doesn't wait for that.
        await asyncio.sleep(_LOG_S)
        logged = [token.token_id for token in await logged_tokens(self._redis, name)]
        answer = [token.token_id for token in reference.completion]
        assert logged == answer[: len(logged)], f"the log of {name} isn't its answer"
        self.outcomes["whole log" if len(logged) == len(answer) else "log that ends early"] += 1

    # --- trouble

    async def _trouble(self) -> None:
        while not self._over.is_set():
            await asyncio.sleep(self._draw.uniform(0.5, 1.5) * self._kill_interval_s)
            victim = self._draw.choice((*_VICTIMS, "redis"))
            self.faults[victim] += 1
            if victim == "redis":
                self._pair.signal_redis(signal.SIGSTOP)
                await asyncio.sleep(self._draw.uniform(0.1, 5))
                self._pair.signal_redis(signal.SIGCONT)
            else:
                await self._replica(victim).restart()

    async def _watch(self) -> None:
        while not self._over.is_set():
            await asyncio.sleep(_SAMPLE_S)
            for name in _VICTIMS:
                process = psutil.Process(self._replica(name).process.pid)
                if time.time() - process.create_time() > _WARM_S:
                    with process.oneshot():
                        sample = Sample(process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())
                    self.samples.setdefault((name, process.pid), []).append(sample)

    def _replica(self, name: str) -> Replica:
        replica: Replica = getattr(self._pair, name)
        return replica


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--streams", type=int, default=16, help="streams at a time (default: 16)")
    parser.add_argument("--kill-interval-s", type=float, default=30.0, help="mean time between faults (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and requests (default: 0)")
    parser.add_argument("--json", type=Path, help="also write what was seen to this file")
    return parser.parse_args()


async def _main(arguments: argparse.Namespace, references: Sequence[Reference], directory: Path) -> dict[str, object]:
    pair = RunningPair(directory)
    try:
        await pair.start()
        async with Redis.from_url(pair.redis.url) as redis:
            soak = Soak(pair, references, redis, random.Random(arguments.seed), arguments.kill_interval_s)
            await soak.run(arguments.minutes * 60, arguments.streams)
            await soak.until_empty()
    finally:
        await pair.stop()
    growth = {
        f"{name} {pid}": [asdict(samples[0]), asdict(samples[-1]), len(samples)]
        for (name, pid), samples in soak.samples.items()
        if len(samples) > 1
    }
    return {"outcomes": dict(soak.outcomes), "faults": dict(soak.faults), "first, last, samples": growth}


def main() -> None:
    """Entry point."""
    arguments = _parse_arguments()
    torch.set_num_threads(1)
    pair = load_pair()
    prompts = suite_prompts(pair, 12)
    references = reference_decodings(pair, prompts, [pair.rule(threshold=0.0), pair.rule()])
    with tempfile.TemporaryDirectory() as directory:
        seen = asyncio.run(_main(arguments, references, Path(directory)))
    text = json.dumps(seen, indent=1)
    sys.stdout.write(text + "\n")
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
