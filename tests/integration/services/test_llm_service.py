"""The large model's process: real model, real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from trivium.v1 import llm_pb2, llm_pb2_grpc

from services.common.serving.channels import open_channel
from tests.integration.harness.processes import running
from tests.serving import error_of, read, until

pytestmark = pytest.mark.integration

LLM = str(Path(__file__).parents[3] / "evaluation/reference/weights/llm")


def _extend(sequence_id: int, base_length: int, token_ids: list[int], queries: list[int]) -> llm_pb2.ExtendCommand:
    command = llm_pb2.ExtendSequence(base_length=base_length, token_ids=token_ids, query_positions=queries)
    return llm_pb2.ExtendCommand(sequence_id=sequence_id, extend=command)


async def _ask(call: Any, *commands: llm_pb2.ExtendCommand) -> llm_pb2.ExtendResponse:
    await call.write(llm_pb2.ExtendRequest(commands=commands))
    response: llm_pb2.ExtendResponse = await read(call)
    return response


@pytest.mark.alone
async def test_process_answers_deltas_survives_bad_input_and_frees_cancelled_sequences(tmp_path: Path) -> None:
    async with (
        running("services.llm", "--model", LLM, "--max-message-mb", "1", directory=tmp_path) as process,
        open_channel(process.target) as channel,
    ):
        stub = llm_pb2_grpc.LlmServiceStub(channel)
        call = stub.Extend()
        [together] = (await _ask(call, _extend(1, 0, [5, 6, 7, 8], [2, 3, 4]))).answers
        [first] = (await _ask(call, _extend(2, 0, [5, 6], [2]))).answers
        [second] = (await _ask(call, _extend(2, 2, [7, 8], [3, 4]))).answers
        assert list(together.token_ids) == [*first.token_ids, *second.token_ids]

        [error] = (await _ask(call, _extend(2, 9, [5], [10]))).errors
        assert (error.code, error.need_from) == (grpc.StatusCode.ABORTED.value[0], 4)
        [error] = (await _ask(call, _extend(3, 4, [5], [5]))).errors
        assert (error.code, error.need_from) == (grpc.StatusCode.NOT_FOUND.value[0], 0)
        too_big = llm_pb2.ExtendRequest(commands=[_extend(3, 0, [700] * 1_000_000, [1])])
        assert (await error_of(stub.Extend(), too_big)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        malformed = llm_pb2.ExtendRequest(commands=[llm_pb2.ExtendCommand(sequence_id=9)])
        assert (await error_of(stub.Extend(), malformed)).code() == grpc.StatusCode.INVALID_ARGUMENT
        assert await process.is_serving(channel)

        async def is_free() -> bool:
            info = await stub.GetServerInfo(llm_pb2.LlmServiceGetServerInfoRequest())
            return info.load.num_active_sequences == 0

        assert not await is_free()
        call.cancel()
        await until(is_free, timeout_s=1.0)
        await _check_streams_share_forwards(stub)
    assert "Traceback" not in process.log


async def _check_streams_share_forwards(stub: Any) -> None:
    before = (await stub.GetServerInfo(llm_pb2.LlmServiceGetServerInfoRequest())).load

    async def ask_often(sequence_id: int) -> None:
        call = stub.Extend()
        for length in range(15):
            [answer] = (await _ask(call, _extend(sequence_id, length, [sequence_id], [length + 1]))).answers
            assert answer.sequence_id == sequence_id
        call.cancel()

    await asyncio.gather(*(ask_often(sequence_id) for sequence_id in range(10, 18)))
    after = (await stub.GetServerInfo(llm_pb2.LlmServiceGetServerInfoRequest())).load
    assert (after.num_rows - before.num_rows) / (after.num_steps - before.num_steps) > 1
