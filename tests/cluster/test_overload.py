"""Four times as many requests as a release admits: what is accepted is finished, the rest is refused at once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from trivium.v1 import orchestrator_pb2_grpc

from evaluation.exactness import Reference
from services.common.serving.channels import open_channel
from tests.cluster.harness.replicas import Replicas, load_of
from tests.integration.harness.completions import cycled, tell
from tests.integration.harness.overload import send_at_once

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MAX_ACTIVE, MAX_WAITING = 8, 8


async def test_overload_finishes_what_it_accepts_and_refuses_the_rest_within_a_second(
    replicas: Replicas, suite_references: list[Reference]
) -> None:
    replicas.install(
        f"orchestrator.settings.maxActiveRequests={MAX_ACTIVE}",
        f"orchestrator.settings.maxWaitingRequests={MAX_WAITING}",
    )
    references = cycled(suite_references, 4 * (MAX_ACTIVE + MAX_WAITING))
    with ExitStack() as stack:
        # One orchestrator: each has bounds of its own.
        address = replicas.orchestrators(stack)[0]
        await load_of(address)
        async with open_channel(address) as channel:
            await channel.channel_ready()
            ended = await send_at_once(orchestrator_pb2_grpc.OrchestratorServiceStub(channel), references)
        load = await load_of(address)
    tell("finished, refused", (ended.num_finished, ended.num_refused))
    tell("slowest refusal, s", round(ended.slowest_refusal_s, 3))
    assert ended.num_finished >= MAX_ACTIVE + MAX_WAITING
    assert load.num_requests_refused == ended.num_refused > 0
    assert ended.slowest_refusal_s < 1
