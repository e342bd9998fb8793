"""SGLang's process without a model: the same messages about requests, made here, in a random order if asked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from services.engines.base import GREEDY, TOP_LOGITS, EngineOptions, ModelInfo, SamplingParams
from services.engines.fakes import fake_next_token
from services.engines.sglang.chunks import CACHE_CLEARED, pack_news, pack_output, pack_trouble
from services.engines.sglang.frames import Header, read_frame
from services.engines.sglang.process import SglangProcess
from services.engines.sglang.rows import ROWS_KEY, pack_row
from services.engines.sglang.server_args import pool_tokens
from services.engines.sglang.troubles import Trouble

HIDDEN_SIZE = 8
VOCAB_SIZE = 128
MODEL_CONTEXT_LEN = 256


@dataclass
class FakeRequest:
    """A request as SGLang sees it: its tokens, drafts included, and where they end."""

    request_id: str
    token_ids: list[int]
    prompt_len: int
    max_new_tokens: int
    sampling: SamplingParams
    stop_token_ids: frozenset[int]
    choices_from: int

    @property
    def num_drafted(self) -> int:
        return len(self.token_ids) - self.prompt_len


class FakeSglangProcess(SglangProcess):
    """Runs requests of a fake model, one token a request and pass.

    Like SGLang it runs a batch at a time, is ahead of its reader by whole passes, and still tells of requests that
    were aborted meanwhile.

    Args:
        options: As of the engine.
        has_features: Whether each token comes with router features.
        rng: Decides which requests a pass runs, and how far ahead of the reader it is; None runs all, one by one.
    """

    def __init__(self, options: EngineOptions, *, has_features: bool, rng: random.Random | None = None) -> None:
        super().__init__(options, has_features=has_features)
        self.requests: dict[str, FakeRequest] = {}
        self.submitted: list[FakeRequest] = []
        self.is_held = False
        """Whether SGLang runs nothing by itself; messages come from `say` alone."""
        self._fake_options = options
        self._with_rows = has_features
        self._rng = rng
        self._pool = pool_tokens(options)
        self._stream = asyncio.StreamReader()
        self._num_rows = 0
        self._num_unread = 0
        self._all_read = asyncio.Event()
        self._submission = asyncio.Event()
        self._has_work = asyncio.Event()
        self._passes: asyncio.Task[None] | None = None

    async def start(self) -> ModelInfo:
        self._passes = asyncio.create_task(self._run())
        return ModelInfo(
            model_id=self._fake_options.model,
            revision="",
            vocab_size=VOCAB_SIZE,
            hidden_size=HIDDEN_SIZE,
            tokenizer_sha256="",
            num_parameters=1,
            context_len=min(MODEL_CONTEXT_LEN, self._fake_options.kv_cache_tokens),
            eos_token_ids=(0,),
            engine="sglang",
        )

    async def stop(self) -> None:
        if self._passes is not None:
            self._passes.cancel()

    def submit(
        self,
        token_ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: SamplingParams = GREEDY,
        stop_token_ids: Collection[int] = (),
        choices_from: int = -1,
    ) -> str:
        request = FakeRequest(
            f"{len(self.submitted):016x}",
            list(token_ids),
            len(token_ids),
            max_new_tokens,
            sampling,
            frozenset(stop_token_ids),
            choices_from,
        )
        self.submitted.append(request)
        self.requests[request.request_id] = request
        self._has_work.set()
        self._submission.set()
        return request.request_id

    def abort(self, request_id: str) -> None:
        self.requests.pop(request_id, None)

    def clear_cache(self) -> None:
        self.say(pack_news(CACHE_CLEARED))

    async def next_message(self) -> tuple[Header, bytes]:
        # Whoever comes back for the next message has taken in the last one.
        if self._num_unread == 0:
            self._all_read.set()
        message = await read_frame(self._stream)
        self._num_unread -= 1
        return message

    def say(self, frame: bytes) -> None:
        """Puts bytes on the stream to the engine."""
        self._num_unread += 1
        self._all_read.clear()
        self._stream.feed_data(frame)

    async def until_read(self) -> None:
        """Waits until the engine has taken in all that was said."""
        await self._all_read.wait()

    async def until_submitted(self, num_requests: int) -> None:
        """Waits until so many requests have been made in all."""
        while len(self.submitted) < num_requests:
            self._submission.clear()
            await self._submission.wait()

    def fail(self, request: FakeRequest, trouble: Trouble, message: str = "as asked for") -> None:
        """Ends a request with trouble."""
        del self.requests[request.request_id]
        self.say(pack_trouble(request.request_id, trouble, message))

    def draft(self, request: FakeRequest) -> None:
        """Runs a request for one token and tells of it."""
        prompt = request.token_ids[: request.prompt_len]
        token_id = fake_next_token(self._fake_options.model, request.token_ids, request.sampling)
        request.token_ids.append(token_id)
        is_last = request.num_drafted == request.max_new_tokens or token_id in request.stop_token_ids
        meta: dict[str, object] = {
            "finish_reason": {"type": "length"} if is_last else None,
            "prompt_tokens": request.prompt_len,
            "cached_tokens": 0,
            ROWS_KEY: [self._row()],
        }
        if request.choices_from >= 0:
            choices = [
                fake_next_token(self._fake_options.model, prompt[:position])
                for position in range(request.choices_from, request.prompt_len)
            ]
            meta["input_top_logprobs"] = [None, *([(0.0, choice)] for choice in choices)]
        self.say(pack_output(request.request_id, {"output_ids": [token_id], "meta_info": meta}))
        if is_last:
            del self.requests[request.request_id]

    def _row(self) -> bytes:
        self._num_rows += 1
        features = np.zeros(TOP_LOGITS + HIDDEN_SIZE, np.float32) if self._with_rows else None
        return pack_row(self._num_rows, self._num_rows, features)

    async def _run(self) -> None:
        while True:
            self._has_work.clear()
            if not self.requests or self.is_held:
                await self._has_work.wait()
                continue
            for _ in range(1 if self._rng is None else self._rng.randint(1, 4)):
                self._run_pass()
            for _ in range(4 if self._rng is None else self._rng.randint(1, 8)):
                await asyncio.sleep(0)

    def _run_pass(self) -> None:
        running = list(self.requests.values())[: self._fake_options.max_batch_size]
        assert sum(len(request.token_ids) for request in running) <= self._pool, "SGLang would run out of room"
        for request in running:
            if self._rng is None or self._rng.random() < 0.8:
                self.draft(request)
