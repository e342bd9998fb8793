"""The router of a running pair is changed under streams: each is the reference of the weights that it began with."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from trivium.v1 import orchestrator_pb2, orchestrator_pb2_grpc

from evaluation.exactness import Reference, reference_decodings, suite_prompts
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair
from router_service.checkpoint import RouterCheckpoint, load_checkpoint, save_checkpoint
from services.common.serving.channels import open_channel
from tests.integration.harness.changed_router import changed_router
from tests.integration.harness.completions import Completion, assert_is_reference, generate, tell
from tests.integration.harness.up import RunningUp, running_up, trivium

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

NUM_STREAMS, NUM_PROMPTS = 32, 12


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    with running_up(tmp_path_factory.mktemp("state")) as running:
        yield running


def references_of(folder: Path, pair: LoadedPair, prompts: list[tuple[int, ...]]) -> list[Reference]:
    checkpoint = load_checkpoint(folder)
    served = dataclasses.replace(pair, router=checkpoint.router, description=checkpoint.description)
    return reference_decodings(served, prompts, [served.rule()])


async def test_router_is_swapped_under_streams_and_every_stream_keeps_its_own(
    up: RunningUp, reference_pair: LoadedPair, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folders = [WEIGHTS_DIR / "router", changed_router(tmp_path / "second", 1), changed_router(tmp_path / "third", 2)]
    prompts = suite_prompts(reference_pair, NUM_PROMPTS)
    by_router = [references_of(folder, reference_pair, prompts) for folder in folders]
    assert len({tuple(reference.completion for reference in found) for found in by_router}) == len(folders)
    completions: list[tuple[int, Completion]] = []
    swapping = True

    async def stream(stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, numbers: Iterator[int]) -> None:
        while swapping:
            number = next(numbers) % NUM_PROMPTS
            prompt = orchestrator_pb2.TokenIds(token_ids=prompts[number])
            asked = orchestrator_pb2.GenerateRequest(token_ids=prompt, max_new_tokens=MAX_NEW_TOKENS)
            completions.append((number, await generate(stub, asked)))

    order = [1, 2, 0]
    weights: dict[str, int] = {}
    async with open_channel(up.address) as channel:
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)

        async def served() -> str:
            info = await stub.GetServerInfo(orchestrator_pb2.OrchestratorServiceGetServerInfoRequest())
            return str(info.router.weights_sha256)

        weights[await served()] = 0
        numbers = itertools.count()
        streams = [asyncio.create_task(stream(stub, numbers)) for _ in range(NUM_STREAMS)]
        for turn in range(request.config.getoption("--swaps")):
            which = order[turn % len(order)]
            done = await asyncio.to_thread(trivium, up.state_dir, "router", "swap", str(folders[which]))
            assert done.returncode == 0, done.stderr
            weights[await served()] = which
        swapping = False
        await asyncio.gather(*streams)

    used = [weights[completion.usage.used_rule.router_weights_sha256] for _, completion in completions]
    tell("streams of each router", {which: used.count(which) for which in sorted(set(used))})
    assert set(used) == set(range(len(folders)))
    for which, (number, completion) in zip(used, completions, strict=True):
        assert_is_reference(completion, by_router[which][number])


def test_router_that_cannot_be_served_changes_nothing(up: RunningUp, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(WEIGHTS_DIR / "router")
    slm = dataclasses.replace(checkpoint.description.slm, revision="0123456789abcdef")
    foreign = dataclasses.replace(checkpoint.description, slm=slm)
    save_checkpoint(RouterCheckpoint(checkpoint.router, foreign, checkpoint.slm_embedding), tmp_path / "foreign")
    refused = trivium(up.state_dir, "router", "swap", str(tmp_path / "foreign"))
    assert refused.returncode == 1
    assert "error: the old router serves on: " in refused.stderr
    assert "0123456789abcdef" in refused.stderr
    empty = trivium(up.state_dir, "router", "swap", str(tmp_path))
    assert empty.returncode == 1
    assert f"{tmp_path}: holds no router.json" in empty.stderr
    assert trivium(up.state_dir, "generate", "What is 2 + 3?").returncode == 0
    elsewhere = trivium(tmp_path / "nowhere", "router", "swap", str(WEIGHTS_DIR / "router"))
    assert "no pair with a router runs here" in elsewhere.stderr
