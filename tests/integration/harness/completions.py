"""What tests of a running pair send, and what it is held to.

Owns the prompts and their reference decodings, and collects streams.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from trivium.v1 import common_pb2, orchestrator_pb2, orchestrator_pb2_grpc

from evaluation.exactness import Reference, reference_decodings
from evaluation.in_process import NEAR_TIE, SLM_ONLY
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, draw_sample
from evaluation.reference.pair import LoadedPair, load_pair
from labeler_jobs.models.huggingface import render_prompt
from services.common.serving.channels import open_channel
from services.engines.base import SamplingParams
from services.engines.sampling import sample_token
from tests.integration.harness.pair import Replica

logger = logging.getLogger(__name__)

NUM_PROMPTS = 12
# Nothing is measured here, so it doesn't matter whether one of these queries is in the training range as well.
FIRST_HELD_OUT = 60_000_000


@pytest.fixture(scope="session")
def reference_pair() -> LoadedPair:
    torch.set_num_threads(1)
    return load_pair()


@pytest.fixture(scope="session")
def references(reference_pair: LoadedPair) -> list[Reference]:
    """Decodings of 12 prompts at three thresholds: LLM only, calibrated and SLM only."""
    samples = [draw_sample(FIRST_HELD_OUT + index) for index in range(NUM_PROMPTS)]
    prompts = [tuple(render_prompt(reference_pair.tokenizer, sample.query)) for sample in samples]
    thresholds = (0.0, reference_pair.description.threshold, SLM_ONLY)
    rules = [reference_pair.rule(threshold=threshold) for threshold in thresholds]
    return reference_decodings(reference_pair, prompts, rules)


@pytest.fixture(scope="session")
def routed_references(references: list[Reference]) -> list[Reference]:
    """Those in which the LLM has a word, the longest first."""
    routed = [reference for reference in references if reference.threshold < SLM_ONLY]
    return sorted(routed, key=lambda reference: -len(reference.completion))


@dataclass(slots=True)
class Completion:
    """A collected stream."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    from_llm: list[bool] = field(default_factory=list)
    request_ids: set[str] = field(default_factory=set)
    finish: orchestrator_pb2.Finish | None = None

    def add(self, response: orchestrator_pb2.GenerateResponse) -> None:
        assert self.finish is None, "a message after the last one"
        self.text += response.text
        self.token_ids += response.token_ids
        self.from_llm += [source == orchestrator_pb2.TOKEN_SOURCE_LLM for source in response.sources]
        self.request_ids.add(response.request_id)
        assert len(response.token_ids) == len(response.sources) == len(response.divergence_probabilities)
        if response.HasField("finish"):
            self.finish = response.finish

    @property
    def usage(self) -> orchestrator_pb2.Usage:
        assert self.finish is not None
        return self.finish.usage


@asynccontextmanager
async def client(replica: Replica) -> AsyncIterator[orchestrator_pb2_grpc.OrchestratorServiceAsyncStub]:
    async with open_channel(replica.address) as channel:
        yield orchestrator_pb2_grpc.OrchestratorServiceStub(channel)


async def generate(
    stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub,
    request: orchestrator_pb2.GenerateRequest,
    on_message: Callable[[], None] = lambda: None,
) -> Completion:
    """Collects a stream that has to end well."""
    completion = Completion()
    async for response in stub.Generate(request):
        completion.add(response)
        on_message()
    assert completion.finish is not None, "the stream ended with OK, but without its last message"
    return completion


async def begin(call: Any) -> Completion:
    """Waits for the first message of a stream."""
    completion = Completion()
    await read_into(completion, call)
    return completion


async def read_into(completion: Completion, call: Any) -> None:
    """Waits for one more message."""
    response = await call.read()
    assert response is not grpc.aio.EOF, "the stream has ended"
    completion.add(response)


async def rest_of(call: Any, completion: Completion) -> None:
    """Collects the rest of a stream that was begun with `read`."""
    while (response := await call.read()) is not grpc.aio.EOF:
        completion.add(response)


async def status_of(call: Any, completion: Completion | None = None) -> grpc.aio.AioRpcError:
    """Collects a stream that has to fail; returns its status."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await rest_of(call, completion or Completion())
    return error.value


def request_for(reference: Reference, **options: Any) -> orchestrator_pb2.GenerateRequest:
    return orchestrator_pb2.GenerateRequest(
        token_ids=orchestrator_pb2.TokenIds(token_ids=reference.prompt_token_ids),
        threshold=reference.threshold,
        max_new_tokens=MAX_NEW_TOKENS,
        **options,
    )


def assert_is_reference(completion: Completion, reference: Reference) -> None:
    """A difference is excused only where the reference itself was decided by the last bits of a float."""
    got = list(zip(completion.token_ids, completion.from_llm, strict=True))
    want = [(token.token_id, token.from_llm) for token in reference.completion]
    if got != want:
        position = next(i for i, (a, b) in enumerate(itertools.zip_longest(got, want)) if a != b)
        assert position < len(want), f"{len(got)} tokens, {len(want)} expected"
        margin = reference.completion[position].margin
        assert margin < NEAR_TIE, f"position {position} of {len(want)} differs: {got[position:][:3]}, by {margin:g}"


def noise(seed: int) -> common_pb2.SamplingParams:
    """Sampling that is so hot that the noise alone decides."""
    return common_pb2.SamplingParams(temperature=1e4, seed=seed)


def endless_request(reference: Reference, num_tokens: int, pair: LoadedPair) -> Any:
    """A request that runs to its limit: its noise draws no end of sequence before. The LLM writes every token."""
    start = len(reference.prompt_token_ids)
    logits = np.zeros(pair.slm.config.vocab_size, dtype=np.float32)
    for seed in itertools.count():
        params = SamplingParams(temperature=1e4, seed=seed)
        drawn = (sample_token(logits, params, start + index) for index in range(num_tokens))
        if pair.tokenizer.eos_token_id not in drawn:
            break
    request = request_for(reference, sampling=noise(seed))
    request.max_new_tokens = num_tokens
    request.threshold = 0
    return request


def tell(what: str, figure: object) -> None:
    """Tells a figure to whoever runs the tests with `--log-cli-level INFO`."""
    logger.info("%s: %s", what, figure)


def cycled(references: Sequence[Reference], number: int) -> list[Reference]:
    return list(itertools.islice(itertools.cycle(references), number))
