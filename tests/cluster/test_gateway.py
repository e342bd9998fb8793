"""Streams over HTTP go on, whatever orchestrators are killed and whatever is started anew meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest

from evaluation.exactness import Reference
from evaluation.reference.pair import LoadedPair
from tests.cluster.harness import pods
from tests.cluster.harness.commands import run
from tests.cluster.harness.killer import Killer
from tests.cluster.harness.release import COMPONENTS, HTTP_PORT, NAME
from tests.cluster.harness.replicas import Replicas
from tests.integration.gateway.callers import Callers
from tests.integration.harness.completions import tell
from tests.serving import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

NUM_STREAMS = 16
SEED = 20
WAYS = ("delete", "SIGKILL")
ROLLED_OUT_TIMEOUT_S = 900


@pytest.fixture
def callers(suite_references: list[Reference], reference_pair: LoadedPair) -> Callers:
    return Callers(suite_references, reference_pair)


@asynccontextmanager
async def calling(replicas: Replicas, callers: Callers) -> AsyncIterator[None]:
    """Callers stream through the gateway's Service for as long as the context is open; none of them may fail."""
    with replicas.access.to_service(replicas.namespace, f"{NAME}-gateway", HTTP_PORT) as address:
        async with asyncio.TaskGroup() as streaming:
            for _ in range(NUM_STREAMS):
                streaming.create_task(callers.run(f"http://{address}"))
            await until(lambda: callers.num_answers >= NUM_STREAMS, timeout_s=300)
            yield
            callers.stopping = True
    tell("answers, tokens", (callers.num_answers, callers.num_tokens))
    tell("longest pause of a stream, s", round(callers.longest_pause_s, 2))


async def test_orchestrator_pods_killed_under_http_streams_are_a_pause_and_nothing_else(
    replicas: Replicas, callers: Callers, kubectl: str, num_kills: int
) -> None:
    draw = random.Random(SEED)
    killer = Killer(replicas, kubectl, draw)
    num_hit = 0
    async with calling(replicas, callers):
        for number in range(num_kills):
            await killer.slots.acquire()
            await asyncio.sleep(draw.uniform(0, 1))
            num_hit += callers.num_running
            # One after the other: the second one serves meanwhile.
            await killer.replace("orchestrator", WAYS[number % len(WAYS)])
            tell("longest pause so far, s", round(callers.longest_pause_s, 2))
    tell("kills", dict(killer.kills))
    tell("streams running at a kill, on average", num_hit / num_kills)
    with ExitStack() as stack:
        tell("whole again after, s", round(await replicas.until_whole(replicas.orchestrators(stack)), 1))
    assert killer.kills.total() == num_kills


async def test_everything_started_anew_at_once_fails_no_http_stream(
    replicas: Replicas, callers: Callers, kubectl: str
) -> None:
    def names() -> set[str]:
        found = (pods.of_component(replicas.api, replicas.namespace, name, ending=True) for name in COMPONENTS)
        return {pods.name_of(pod) for listed in found for pod in listed}

    of_release = ("--namespace", replicas.namespace, "--selector", f"app.kubernetes.io/instance={NAME}")
    before = names()
    async with calling(replicas, callers):
        await asyncio.to_thread(run, kubectl, "rollout", "restart", "deployment,statefulset", *of_release)
        num_before = callers.num_answers
        rolled_out = (kubectl, "rollout", "status", "deployment,statefulset", *of_release)
        timeout = f"--timeout={ROLLED_OUT_TIMEOUT_S}s"
        await asyncio.to_thread(run, *rolled_out, timeout, timeout_s=ROLLED_OUT_TIMEOUT_S + 60)
        # A stateful set's pod has the same name again.
        old = {name for name in before if not name.startswith(f"{NAME}-redis")}
        await until(lambda: not names() & old, timeout_s=ROLLED_OUT_TIMEOUT_S)
        num_during = callers.num_answers - num_before
    with ExitStack() as stack:
        await replicas.until_whole(replicas.orchestrators(stack))
    assert num_during >= NUM_STREAMS
