"""An orchestrator that is told to end: what runs is finished, clients go elsewhere, nothing ends halfway with OK."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

import grpc
import pytest
from trivium.v1 import orchestrator_pb2, orchestrator_pb2_grpc

from evaluation.exactness import Reference
from evaluation.reference.pair import LoadedPair
from services.common.serving.channels import open_channel
from tests.integration.harness.clients import Clients
from tests.integration.harness.completions import (
    assert_is_reference,
    begin,
    client,
    endless_request,
    generate,
    request_for,
    rest_of,
    status_of,
)
from tests.integration.harness.pair import Replica, RunningPair, front_info
from tests.relay import Relay
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DRAIN_S = 60.0
"""Enough for a busy machine."""
CONNECTION_AGE_S = 2


async def test_sigterm_lets_a_running_stream_finish_refuses_new_ones_and_exits_0(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    request = endless_request(references[0], 600, reference_pair)
    async with (
        pair.running_orchestrator("stopped", "--drain-timeout-s", "120") as front,
        client(front) as stub,
        open_channel(front.address) as other,
    ):
        other_stub = orchestrator_pb2_grpc.OrchestratorServiceStub(other)
        await other_stub.Cancel(orchestrator_pb2.CancelRequest(request_id="connects"))
        call = stub.Generate(request)
        completion = await begin(call)
        front.process.signal(signal.SIGTERM)
        await until(lambda: _takes_no_connections(front), timeout_s=DRAIN_S)
        # Its client is told to connect elsewhere, and here nobody listens any more.
        await until(lambda: other.get_state() is not grpc.ChannelConnectivity.READY, timeout_s=DRAIN_S)
        error = await status_of(other_stub.Generate(request_for(references[0])))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        await rest_of(call, completion)
        assert len(completion.token_ids) == 600
        assert completion.usage.num_completion_tokens == 600
        assert await front.process.until_exited() == 0


async def test_client_of_a_draining_orchestrator_goes_on_with_another_one(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    request = endless_request(references[0], 600, reference_pair)
    async with pair.running_orchestrator("leaving", "--drain-timeout-s", "120") as leaving:
        # Connects to the first that takes connections.
        async with open_channel(f"ipv4:{leaving.address},{pair.front.address}") as channel:
            stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
            call = stub.Generate(request)
            completion = await begin(call)
            leaving.process.signal(signal.SIGTERM)
            await until(lambda: _takes_no_connections(leaving), timeout_s=DRAIN_S)
            assert leaving.process.is_alive, "the stream was over before clients were sent away"
            assert_is_reference(await generate(stub, request_for(references[0])), references[0])
            await rest_of(call, completion)
            assert len(completion.token_ids) == 600
        assert await leaving.process.until_exited() == 0


async def test_clients_whose_connections_get_too_old_leave_an_orchestrator_before_it_drains(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    clients = Clients(references, reference_pair.tokenizer)
    async with AsyncExitStack() as stack:
        leaving, staying = [
            await stack.enter_async_context(
                pair.running_orchestrator(name, "--max-connection-age-s", str(CONNECTION_AGE_S))
            )
            for name in ("leaving", "staying")
        ]
        # What a Service does: leads every new connection to an orchestrator that isn't about to end.
        service = Relay(leaving.address)
        await stack.enter_async_context(service.listening("127.0.0.1", 0))
        async with asyncio.TaskGroup() as streaming:
            for _ in range(8):
                streaming.create_task(clients.run(service.address))
            await until(lambda: clients.num_streams >= 8, timeout_s=DRAIN_S)
            service.target = staying.address
            await until(lambda: not service.num_open[leaving.address], timeout_s=DRAIN_S)
            num_before = clients.num_streams
            leaving.process.signal(signal.SIGTERM)
            assert await leaving.process.until_exited() == 0
            await until(lambda: clients.num_streams >= num_before + 16, timeout_s=DRAIN_S)
            clients.stopping = True
        assert (await front_info(staying)).load.num_requests_finished >= 16


async def test_drain_that_takes_too_long_never_ends_a_stream_with_ok(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    request = endless_request(references[0], 900, reference_pair)
    async with pair.running_orchestrator("cut-off", "--drain-timeout-s", "0") as front, client(front) as stub:
        call = stub.Generate(request)
        completion = await begin(call)
        front.process.signal(signal.SIGTERM)
        assert (await status_of(call, completion)).code() == grpc.StatusCode.UNAVAILABLE
        assert completion.finish is None
        assert await front.process.until_exited() == 0


async def _takes_no_connections(front: Replica) -> bool:
    host, _, port = front.address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:
        # Refused, or reset where the socket was closed in that moment.
        return True
    writer.close()
    return False
