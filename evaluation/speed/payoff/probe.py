"""Measures the step times of a running pair's models, as an orchestrator sees them.

Owns what is timed. Every round times everything, each kind of step several times in a row; what counts is the median
over rounds of their mean, as the speed of an answer is a mean over its tokens, and machines are shared. What is
processed is drawn anew from the tokens of the prompts, so that no prefix cache helps; drafts follow real prompts,
since the SLM's service sends those together that it is sure of.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from evaluation.speed.payoff.streams import Drafts, PairStreams, close_slm, grant_slm, new_sequence_id, open_slm
from evaluation.speed.payoff.times import StepTime, StepTimes

_RUN_LENS = (1, 2, 4, 8, 16)
"""Tokens of the LLM's passes that are timed, beside a whole prompt."""
_AHEAD = 24
"""Drafts over which the SLM is timed while it drafts by itself."""
_REPEATS = 8
"""Times that what takes a single step is timed in a round."""
_BESIDE_LEN = 4
"""Tokens of the LLM's passes that are timed beside the SLM's drafting."""
_ROUTER_ROWS = (1, 8)


@dataclass
class StepProbe:
    """Times the steps of a pair.

    Args:
        pair: The services.
        prompts: Prompt token ids; their median length is what prefills are timed with.
        num_streams: Sequences in the steps of many.
        seed: Draws the prefixes.
    """

    pair: PairStreams
    prompts: Sequence[Sequence[int]]
    num_streams: int
    seed: int = 0
    _draw: random.Random = field(init=False)
    _samples: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    _rounds: list[dict[tuple[str, int], float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._vocabulary = [token for prompt in self.prompts for token in prompt]
        self.prompt_len = int(statistics.median(map(len, self.prompts)))

    async def round(self) -> None:
        """Times everything once."""
        drafts = await self._time_slm()
        await self._time_slm_streams()
        await self._time_llm()
        await self._time_llm_streams()
        if self.pair.router is not None:
            await self._time_router(drafts)
        await self._time_both()
        self._rounds.append({what: statistics.fmean(seconds) for what, seconds in self._samples.items()})
        self._samples.clear()

    def times(self) -> StepTimes:
        """What all rounds say."""
        first_s = self._median("slm first", 1)
        step_s = max(1e-9, (self._median("slm ahead", 1) - first_s) / _AHEAD)
        steps = {1: step_s}
        if self.num_streams > 1:
            steps[self.num_streams] = max(step_s, self._median("slm streams", self.num_streams))
        prefill_s = max(0.0, self._median("slm open", 1) - first_s)
        passes = {size: self._median("llm", size) for size in (*_RUN_LENS, self.prompt_len)}
        streams = {1: passes[1], self.num_streams: self._median("llm streams", self.num_streams)}
        return StepTimes(
            slm_step=monotone(steps),
            slm_hop_s=max(0.0, first_s - step_s),
            slm_prefill=StepTime(((1, prefill_s / self.prompt_len), (self.prompt_len, prefill_s))),
            router=monotone({rows: self._median("router", rows) for rows in _ROUTER_ROWS})
            if self.pair.router is not None
            else None,
            llm_pass=monotone(passes),
            llm_streams=monotone(streams),
            slm_slowdown=max(1.0, self._ratio("slm beside", "slm alone", 1)),
            llm_slowdown=max(1.0, self._ratio("llm beside", "llm alone", _BESIDE_LEN)),
        )

    def _median(self, what: str, size: int) -> float:
        return statistics.median(samples[what, size] for samples in self._rounds)

    def _ratio(self, above: str, below: str, size: int) -> float:
        return statistics.median(samples[above, size] / samples[below, size] for samples in self._rounds)

    def _took(self, what: str, size: int, since: float, per: int = 1) -> None:
        self._samples[what, size].append((time.perf_counter() - since) / per)

    def _prefix(self, length: int) -> list[int]:
        return self._draw.choices(self._vocabulary, k=length)

    async def _drafts_until(self, num_rows: int) -> Drafts:
        while num_rows > 0:
            drafts = await self.pair.slm.drafts()
            num_rows -= len(drafts.positions)
        return drafts

    async def _open_prompt(self) -> tuple[int, int]:
        """Has the SLM draft one token after a real prompt. Returns the sequence and the prompt's length."""
        sequence_id, prompt = new_sequence_id(), self._draw.choice(self.prompts)
        await self.pair.slm.tell(open_slm(sequence_id, prompt, 1))
        await self.pair.slm.drafts()
        return sequence_id, len(prompt)

    async def _time_slm(self) -> Drafts:
        sequence_id = new_sequence_id()
        start = time.perf_counter()
        await self.pair.slm.tell(open_slm(sequence_id, self._prefix(self.prompt_len), 1))
        await self.pair.slm.drafts()
        self._took("slm open", 1, start)
        await self.pair.slm.tell(close_slm(sequence_id))
        sequence_id, length = await self._open_prompt()
        for _ in range(_REPEATS):
            length += 1
            start = time.perf_counter()
            await self.pair.slm.tell(grant_slm(sequence_id, length + 1))
            drafts = await self.pair.slm.drafts()
            self._took("slm first", 1, start)
        start = time.perf_counter()
        await self.pair.slm.tell(grant_slm(sequence_id, length + 2 + _AHEAD))
        await self._drafts_until(_AHEAD + 1)
        self._took("slm ahead", 1, start)
        await self.pair.slm.tell(close_slm(sequence_id))
        return drafts

    async def _time_slm_streams(self) -> None:
        if self.num_streams == 1:
            return
        sequence_ids = [new_sequence_id() for _ in range(self.num_streams)]
        await self.pair.slm.tell(*(open_slm(each, self._prefix(self.prompt_len), 1) for each in sequence_ids))
        await self._drafts_until(self.num_streams)
        start = time.perf_counter()
        end = self.prompt_len + 1 + _AHEAD
        await self.pair.slm.tell(*(grant_slm(each, end) for each in sequence_ids))
        await self._drafts_until(self.num_streams * _AHEAD)
        self._took("slm streams", self.num_streams, start, per=_AHEAD)
        await self.pair.slm.tell(*map(close_slm, sequence_ids))

    async def _time_llm(self) -> None:
        sequence_id, held = new_sequence_id(), self.prompt_len
        start = time.perf_counter()
        await self.pair.llm.extend(sequence_id, 0, self._prefix(held), [held])
        self._took("llm", self.prompt_len, start)
        for size in _RUN_LENS:
            for _ in range(_REPEATS if size == 1 else _REPEATS // 2):
                tokens, queries = self._prefix(size), range(held + 1, held + size + 1)
                start = time.perf_counter()
                await self.pair.llm.extend(sequence_id, held, tokens, queries)
                self._took("llm", size, start)
        await self.pair.llm.release(sequence_id)

    async def _time_llm_streams(self) -> None:
        if self.num_streams == 1:
            return
        sequence_ids = [new_sequence_id() for _ in range(self.num_streams)]
        held = self.prompt_len
        await self.pair.llm.extend_all({each: (0, self._prefix(held), [held]) for each in sequence_ids})
        for _ in range(_REPEATS):
            start = time.perf_counter()
            await self.pair.llm.extend_all({each: (held, self._prefix(1), [held + 1]) for each in sequence_ids})
            self._took("llm streams", self.num_streams, start)
            held += 1
        await self.pair.llm.release(*sequence_ids)

    async def _time_router(self, drafts: Drafts) -> None:
        assert self.pair.router is not None
        for rows in _ROUTER_ROWS:
            many = Drafts(
                drafts.sequence_ids, drafts.positions, drafts.token_ids.repeat(rows),
                drafts.hidden_states.repeat(rows, axis=0), drafts.top_logits.repeat(rows, axis=0),
            )  # fmt: skip
            for _ in range(_REPEATS):
                start = time.perf_counter()
                await self.pair.router.scores(many)
                self._took("router", rows, start)

    async def _time_both(self) -> None:
        """Times each model alone, and while the other is at work too."""
        slm_id, prompt_len = await self._open_prompt()
        llm_id = new_sequence_id()
        await self.pair.llm.extend(llm_id, 0, self._prefix(self.prompt_len), [self.prompt_len])
        position, held = prompt_len + 1, self.prompt_len

        async def draft(what: str) -> None:
            nonlocal position
            start = time.perf_counter()
            await self.pair.slm.tell(grant_slm(slm_id, position + _AHEAD))
            await self._drafts_until(_AHEAD)
            self._took(what, 1, start)
            position += _AHEAD

        async def answer(what: str) -> None:
            start = time.perf_counter()
            # A question's tokens replace those of the last one, so that the context stays as long.
            await self.pair.llm.extend(llm_id, held, self._prefix(_BESIDE_LEN), [held + _BESIDE_LEN])
            self._took(what, _BESIDE_LEN, start)

        for _ in range(_REPEATS // 2):
            await draft("slm alone")
            await answer("llm alone")
        drafting = asyncio.create_task(self._until_enough(draft, "slm beside"))
        while not drafting.done():
            await answer("llm beside")
        await drafting
        await self.pair.slm.tell(close_slm(slm_id))
        await self.pair.llm.release(llm_id)

    async def _until_enough(self, draft: Callable[[str], Awaitable[None]], what: str) -> None:
        """Drafts until the LLM has answered a few times as well."""
        while True:
            await draft(what)
            if len(self._samples["llm beside", _BESIDE_LEN]) >= _REPEATS // 2:
                return


def monotone(seconds: dict[int, float]) -> StepTime:
    """A larger step takes no less: where noise says so, neighbours share their mean."""
    blocks: list[tuple[list[int], float]] = []
    for size, taken in sorted(seconds.items()):
        blocks.append(([size], taken))
        while len(blocks) > 1 and blocks[-2][1] > blocks[-1][1]:
            (left, left_s), (right, right_s) = blocks[-2:]
            mean = (left_s * len(left) + right_s * len(right)) / (len(left) + len(right))
            blocks[-2:] = [(left + right, mean)]
    return StepTime(tuple((size, taken) for sizes, taken in blocks for size in sizes))
