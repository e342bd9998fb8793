from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from services.common.errors import Cancelled, CapacityExceeded, ContextLengthExceeded, InvalidRequest
from services.engines.fakes import FakeLlmEngine
from services.orchestrator.index.prefix_index import PrefixHits, PrefixIndex
from tests.serving import until
from tests.unit.orchestrator.cluster import (
    Cluster,
    FakeReplica,
    llm_replica,
    make_task,
    reference_decoding,
    router_replica,
    running_cluster,
    slm_replica,
)

PATIENCE_S = 90.0


def _tasks(number: int, **fields: Any) -> list[Any]:
    return [make_task(f"request {i}", prompt_token_ids=(5, i + 1, 7), **fields) for i in range(number)]


async def _assert_all_are_references(cluster: Cluster, tasks: list[Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        completions = await asyncio.gather(*(cluster.run(task) for task in tasks))
    for task, completion in zip(tasks, completions, strict=True):
        assert completion == reference_decoding(task)


@pytest.mark.parametrize("depth", [0, 3, 16])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0])
async def test_many_sequences_equal_the_reference_and_free_everything(depth: int, threshold: float) -> None:
    async with running_cluster() as cluster:
        await _assert_all_are_references(cluster, _tasks(6, run_ahead_depth=depth, threshold=threshold))
        await until(lambda: cluster.is_empty, timeout_s=PATIENCE_S)
        assert cluster.driver.counts.num_requests_finished == 6


@pytest.mark.parametrize("seed", range(4))
async def test_replicas_killed_at_random_change_no_token_and_leave_nothing_behind(seed: int) -> None:
    draw = random.Random(seed)
    slms, routers, llms = (
        [slm_replica(), slm_replica()],
        [router_replica(), router_replica()],
        [llm_replica(), llm_replica()],
    )

    async def kill_one_after_another() -> None:
        while True:
            await asyncio.sleep(draw.uniform(0.01, 0.1))
            replica = draw.choice(cluster.replicas)
            await replica.kill()
            await asyncio.sleep(draw.uniform(0, 0.1))
            await replica.start()

    async with running_cluster(slms=slms, routers=routers, llms=llms) as cluster:
        chaos = asyncio.create_task(kill_one_after_another())
        try:
            for _ in range(3):
                await _assert_all_are_references(cluster, _tasks(8, max_new_tokens=120, run_ahead_depth=6))
        finally:
            chaos.cancel()
            with suppress(asyncio.CancelledError):
                await chaos
        await until(lambda: cluster.is_empty, timeout_s=PATIENCE_S)


@pytest.mark.parametrize("kind", ["slms", "routers", "llms"])
async def test_only_replica_gone_for_a_while_pauses_the_sequence(kind: str) -> None:
    async with running_cluster() as cluster:
        task = make_task(max_new_tokens=200, threshold=0.0)
        running = asyncio.create_task(cluster.run(task))
        (replica,) = getattr(cluster, kind)
        await until(lambda: cluster.driver.num_peer_messages > 20, timeout_s=PATIENCE_S)
        assert not running.done()
        await replica.kill()
        await asyncio.sleep(0.05)
        await replica.start()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == reference_decoding(task)


async def test_slm_lost_at_the_context_limit_is_replaced() -> None:
    # An SLM refuses a prefix that leaves no room for a draft. The LLM answers
    # nothing before the SLM is lost, so all that fits is drafted.
    gated = llm_replica(_GatedLlm)
    async with running_cluster(llms=[gated]) as cluster:
        task = make_task(prompt_token_ids=tuple([5] * 250), max_new_tokens=6, threshold=0.0, run_ahead_depth=16)
        running = asyncio.create_task(cluster.run(task))
        (slm,) = cluster.slms
        await until(lambda: slm.engine.load.num_rows == 6, timeout_s=PATIENCE_S)
        await slm.kill()
        await slm.start()
        await until(lambda: slm.num_sequences == 1, timeout_s=PATIENCE_S)
        gated.engine.gate.set()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == reference_decoding(task)


async def test_llm_with_room_for_one_of_two_sequences_answers_both_and_keeps_nothing() -> None:
    # Two sequences of 60 tokens don't fit: the younger gives its KV up to the older one.
    async with running_cluster(llms=[llm_replica(kv_cache_tokens=80)]) as cluster:
        tasks = _tasks(2, max_new_tokens=57, threshold=0.0)
        await _assert_all_are_references(cluster, tasks)
        await until(lambda: cluster.is_empty, timeout_s=PATIENCE_S)


async def test_prompt_without_room_now_waits_and_runs_once_an_older_one_has_ended() -> None:
    gated = llm_replica(_GatedLlm)
    async with running_cluster(slms=[slm_replica(kv_cache_tokens=64)], llms=[gated]) as cluster:
        tasks = [
            make_task(name, prompt_token_ids=(5, number, *[7] * 58), max_new_tokens=4, threshold=0.0)
            for number, name in enumerate(("first", "second"))
        ]
        running = [asyncio.create_task(cluster.run(task)) for task in tasks]
        await until(lambda: cluster.slms[0].num_sequences == 2, timeout_s=PATIENCE_S)
        gated.engine.gate.set()
        async with asyncio.timeout(PATIENCE_S):
            for task, completion in zip(tasks, running, strict=True):
                assert await completion == reference_decoding(task)
        await until(lambda: cluster.is_empty, timeout_s=PATIENCE_S)


@pytest.mark.parametrize("short", ["slm", "llm"])
async def test_sequence_longer_than_any_replica_takes_fails_instead_of_waiting(short: str) -> None:
    make_replica = slm_replica if short == "slm" else llm_replica
    small: dict[str, Any] = {f"{short}s": [make_replica(kv_cache_tokens=40)]}
    async with running_cluster(**small) as cluster:
        with pytest.raises(ContextLengthExceeded, match=r"^max_new_tokens: 60 .* 40$"):
            await cluster.run(make_task(max_new_tokens=57))
        fits = make_task(max_new_tokens=37)
        assert await cluster.run(fits) == reference_decoding(fits)
        await until(lambda: cluster.is_empty, timeout_s=PATIENCE_S)


async def test_sequence_that_a_replica_refuses_fails_and_is_freed_everywhere() -> None:
    async with running_cluster() as cluster:
        with pytest.raises(ContextLengthExceeded):
            await cluster.run(make_task(prompt_token_ids=tuple([5] * 256)))
        await until(lambda: cluster.is_empty, timeout_s=PATIENCE_S)


async def test_cancel_frees_the_replicas_although_nobody_reads_the_stream() -> None:
    async with running_cluster(llms=[llm_replica(_GatedLlm)]) as cluster:
        task = make_task(threshold=0.0)
        async with cluster.driver.sequence(task) as sequence:
            await until(lambda: cluster.llms[0].num_sequences == 1, timeout_s=PATIENCE_S)
            assert cluster.driver.cancel(task.request_id)
            await until(lambda: _num_held(cluster) == 0, timeout_s=PATIENCE_S)
            with pytest.raises(Cancelled):
                await anext(sequence.answer.parts(0))
        assert not cluster.driver.cancel(task.request_id)


async def test_finished_sequence_frees_the_replicas_although_nobody_reads_the_stream() -> None:
    async with running_cluster() as cluster:
        task = make_task()
        async with cluster.driver.sequence(task) as sequence:
            await until(lambda: not sequence.running, timeout_s=PATIENCE_S)
            await until(lambda: _num_held(cluster) == 0, timeout_s=PATIENCE_S)
            assert cluster.driver.admission.num_active == 1
            progress = [part async for part in sequence.answer.parts(0)]
        assert len(progress) == 1
        assert len(progress[0].tokens) == len(reference_decoding(task))


async def test_requests_above_the_maximum_are_refused_also_when_they_come_together() -> None:
    index = _SlowIndex(None)
    bounds: Any = {"max_active_requests": 2, "max_waiting_requests": 1}
    async with running_cluster(llms=[llm_replica(_GatedLlm)], index=index, **bounds) as cluster:
        running = [asyncio.create_task(cluster.run(task)) for task in _tasks(5, threshold=0.0)]
        refused, _ = await asyncio.wait(running, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        await until(lambda: sum(task.done() for task in running) == 2, timeout_s=PATIENCE_S)
        assert all(isinstance(task.exception(), CapacityExceeded) for task in refused)
        driver = cluster.driver
        assert (driver.admission.num_active, driver.admission.num_waiting, driver.admission.num_refused) == (2, 1, 2)
        cluster.llms[0].engine.gate.set()
        await asyncio.wait(running, timeout=PATIENCE_S)
        assert cluster.driver.counts.num_requests_finished == 3


async def test_request_id_in_use_is_refused_and_taken_over_by_a_resume() -> None:
    gated = llm_replica(_GatedLlm)
    async with running_cluster(llms=[gated]) as cluster:
        task = make_task(threshold=0.0)
        first = asyncio.create_task(cluster.run(task))
        await until(lambda: gated.num_sequences == 1, timeout_s=PATIENCE_S)
        with pytest.raises(InvalidRequest, match="request_id"):
            await cluster.run(task)
        gated.engine.gate.set()
        await until(lambda: cluster.driver.num_peer_messages > 20, timeout_s=PATIENCE_S)
        resumed = make_task(threshold=0.0, resume_from=1)
        assert await cluster.run(resumed) == reference_decoding(task)[1:]
        with suppress(Cancelled):
            await first


async def test_draining_replica_gets_no_new_sequence_and_keeps_what_it_has() -> None:
    llms = [llm_replica(_GatedLlm), llm_replica(_GatedLlm)]
    async with running_cluster(llms=llms) as cluster:
        old = asyncio.create_task(cluster.run(make_task("old", threshold=0.0)))
        await until(lambda: _num_held_by(llms) == 1, timeout_s=PATIENCE_S)
        draining, other = sorted(llms, key=lambda replica: -replica.num_sequences)
        await draining.lifecycle.mark_draining()
        other.engine.gate.set()
        for task in _tasks(3, threshold=0.0):
            assert await cluster.run(task) == reference_decoding(task)
        assert draining.num_sequences == 1
        draining.engine.gate.set()
        async with asyncio.timeout(PATIENCE_S):
            assert await old == reference_decoding(make_task("old", threshold=0.0))


@pytest.mark.parametrize("kv_cache_tokens", [2, 70])
async def test_replica_without_room_leaves_a_new_sequence_to_one_that_has_some(kv_cache_tokens: int) -> None:
    # The one takes no such sequence at all, the other one at a time.
    slms = [slm_replica(kv_cache_tokens=kv_cache_tokens), slm_replica()]
    async with running_cluster(slms=slms) as cluster:
        await _assert_all_are_references(cluster, _tasks(4))
        assert len(cluster.driver.slm.links.available) == 2


async def test_replica_of_another_model_that_came_before_the_pair_was_complete_serves_nothing() -> None:
    slms = [slm_replica(revision="old"), slm_replica(revision="new")]
    async with running_cluster(slms=slms) as cluster:
        await until(lambda: len(cluster.driver.slm.links.available) == 1, timeout_s=PATIENCE_S)
        await _assert_all_are_references(cluster, _tasks(6))
        assert len(cluster.driver.slm.links.available) == 1
        assert sorted(slm.engine.load.num_steps > 0 for slm in slms) == [False, True]


async def test_cancel_finds_the_running_one_of_two_with_the_same_name() -> None:
    async with running_cluster(llms=[llm_replica(_GatedLlm)]) as cluster:
        task = make_task(threshold=0.0)
        # The client of the first doesn't read, so that it stays although it has been resumed.
        async with (
            cluster.driver.sequence(task) as old,
            cluster.driver.sequence(make_task(threshold=0.0, resume_from=1)) as resumed,
        ):
            assert not old.running
            assert cluster.driver.cancel(task.request_id)
            assert not resumed.running


async def test_request_that_waits_runs_when_another_has_ended_and_can_be_cancelled() -> None:
    gated = llm_replica(_GatedLlm)
    async with running_cluster(llms=[gated], max_active_requests=1) as cluster:
        first, second, third = _tasks(3, threshold=0.0)
        running = asyncio.create_task(cluster.run(first))
        await until(lambda: gated.num_sequences == 1, timeout_s=PATIENCE_S)
        waiting = [asyncio.create_task(cluster.run(task)) for task in (second, third)]
        await until(lambda: cluster.driver.admission.num_waiting == 2, timeout_s=PATIENCE_S)
        assert cluster.driver.cancel(second.request_id)
        with pytest.raises(Cancelled):
            await waiting[0]
        gated.engine.gate.set()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == reference_decoding(first)
            assert await waiting[1] == reference_decoding(third)


async def test_resume_takes_the_place_of_its_own_old_stream_when_all_places_are_taken() -> None:
    gated = llm_replica(_GatedLlm)
    async with running_cluster(llms=[gated], max_active_requests=1) as cluster:
        task = make_task(threshold=0.0)
        old = asyncio.create_task(cluster.run(task))
        await until(lambda: gated.num_sequences == 1, timeout_s=PATIENCE_S)
        resumed = asyncio.create_task(cluster.run(make_task(threshold=0.0, resume_from=1)))
        with pytest.raises(Cancelled):
            await old
        gated.engine.gate.set()
        async with asyncio.timeout(PATIENCE_S):
            assert await resumed == reference_decoding(task)[1:]


class _SlowIndex(PrefixIndex):
    """An index that takes its time to know nothing."""

    async def lookup(self, token_ids: Sequence[int]) -> PrefixHits:
        await asyncio.sleep(0.01)
        return await super().lookup(token_ids)


class _GatedLlm(FakeLlmEngine):
    """An LLM that answers nothing before its gate is opened."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.gate = asyncio.Event()

    async def step(self) -> Any:
        await self.gate.wait()
        return await super().step()


def _num_held(cluster: Cluster) -> int:
    return _num_held_by([*cluster.slms, *cluster.llms])


def _num_held_by(replicas: Sequence[FakeReplica]) -> int:
    return sum(replica.num_sequences for replica in replicas)
