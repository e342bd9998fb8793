"""What measures HTTP against gRPC measures both."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evaluation.speed.front_door import GRPC, HTTP, Subject, measure
from tests.integration.gateway.door import Gateway
from tests.integration.harness.pair import RunningPair

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_both_ways_into_a_pair_are_measured_in_each_repetition(pair: RunningPair, tmp_path: Path) -> None:
    gateway = Gateway(pair.front.address, directory=tmp_path)
    try:
        asyncio.run(gateway.until_healthy())
        subject = Subject(pair.front.address, gateway.target, gateway.pid)
        rows = measure(subject, repetitions=2, streams=(1, 4), num_requests=lambda num_streams: 2 * num_streams)
    finally:
        gateway.kill()
    assert [(row.way, row.num_streams) for row in rows] == [(GRPC, 1), (HTTP, 1), (GRPC, 4), (HTTP, 4)]
    for row in rows:
        for values in (
            row.tokens_per_s,
            row.first_token_ms,
            row.orchestrator_cpu_us,
            row.client_cpu_us,
            row.messages,
        ):
            assert len(values) == 2
            assert min(values) > 0
        # At least one token each, and few events but those that carry some.
        assert max(row.messages) < 1.5
    grpc, http = rows[-2:]
    assert sum(http.gateway_cpu_us) > sum(grpc.gateway_cpu_us)
