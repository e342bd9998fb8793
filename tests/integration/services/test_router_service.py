"""The router's process: real checkpoint, real server."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from trivium.v1 import common_pb2, router_pb2, router_pb2_grpc

from services.common.serving.channels import open_channel
from services.common.tensors import pack, unpack
from tests.integration.harness.processes import Process, run_to_end, running
from tests.serving import error_of, read

pytestmark = pytest.mark.integration

WEIGHTS = Path(__file__).parents[3] / "evaluation/reference/weights"
ROUTER = ["--checkpoint", str(WEIGHTS / "router"), "--slm-model", str(WEIGHTS / "slm")]


def _request(hidden_size: int, num_rows: int) -> router_pb2.ScoreRequest:
    rng = np.random.default_rng(num_rows)
    return router_pb2.ScoreRequest(
        batch_id=num_rows,
        token_ids=rng.integers(0, 500, num_rows).tolist(),
        hidden_states=pack(rng.standard_normal((num_rows, hidden_size), np.float32)),
        top_logits=pack(rng.standard_normal((num_rows, 100), np.float32)),
    )


async def _check_score(call: Any, hidden_size: int, num_rows: int) -> None:
    await call.write(_request(hidden_size, num_rows))
    response = await read(call)
    scores = unpack(response.divergence_probabilities, field="scores", shape=(num_rows,))
    assert response.batch_id == num_rows
    assert ((scores >= 0) & (scores <= 1)).all()


def _with(request: router_pb2.ScoreRequest, hidden_states: common_pb2.Tensor) -> router_pb2.ScoreRequest:
    changed = router_pb2.ScoreRequest.FromString(request.SerializeToString())
    changed.hidden_states.CopyFrom(hidden_states)
    return changed


async def test_process_scores_and_survives_bad_input(tmp_path: Path) -> None:
    async with (
        running("router_service", *ROUTER, "--max-message-mb", "1", directory=tmp_path) as process,
        open_channel(process.target) as channel,
    ):
        stub = router_pb2_grpc.RouterServiceStub(channel)
        info = (await stub.GetServerInfo(router_pb2.RouterServiceGetServerInfoRequest())).router
        hidden_size = info.hidden_size
        call = stub.Score()
        for num_rows in (1, 32):
            await _check_score(call, hidden_size, num_rows)

        good = _request(hidden_size, 2)
        zeros = np.zeros((2, hidden_size), np.float32)
        outside = router_pb2.ScoreRequest.FromString(good.SerializeToString())
        outside.token_ids[1] = info.vocab_size
        too_short = pack(zeros)
        too_short.data = too_short.data[:-4]
        for request, field in (
            (outside, "token_ids"),
            (_with(good, too_short), "hidden_states.data"),
            (_with(good, pack(zeros.astype(np.float16))), "hidden_states.dtype"),
            (_with(good, pack(np.zeros((2, hidden_size + 1), np.float32))), "hidden_states.shape"),
            (_with(good, pack(zeros * np.float32(np.nan))), "hidden_states.data"),
        ):
            error = await error_of(stub.Score(), request)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert field in str(error.details())
        too_big = router_pb2.ScoreRequest(token_ids=[700] * 1_000_000)
        assert (await error_of(stub.Score(), too_big)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED

        await _check_score(call, hidden_size, 3)
        process.signal(signal.SIGTERM)
        assert (await error_of(call)).code() == grpc.StatusCode.UNAVAILABLE
        assert await process.until_exited() == 0
    assert "Traceback" not in process.log


async def test_process_listens_not_serving_while_it_loads_and_a_second_one_finds_the_port_taken(
    tmp_path: Path,
) -> None:
    process = Process("router_service", *ROUTER, directory=tmp_path / "first")
    try:
        await process.until_listening()
        async with open_channel(process.target) as channel:
            assert not await process.is_serving(channel)
            error = await error_of(router_pb2_grpc.RouterServiceStub(channel).Score())
            assert (error.code(), "starting" in str(error.details())) == (grpc.StatusCode.UNAVAILABLE, True)
        await process.until_serving()
        port = process.target.rpartition(":")[2]
        code, log = await run_to_end("router_service", *ROUTER, "--port", port, directory=tmp_path / "second")
        assert (code, f"can't listen on 127.0.0.1:{port}" in log) == (1, True)
        assert "Traceback" not in log
    finally:
        assert await process.stop() == 0
    messages = [line["message"] for line in process.log_lines()]
    assert messages == ["listening", "ready", "draining", "stopped"]


async def test_damaged_checkpoint_is_named_without_a_traceback(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "router", tmp_path / "router")
    weights = tmp_path / "router" / "router.safetensors"
    weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])
    code, log = await run_to_end(
        "router_service", "--checkpoint", str(weights.parent), *ROUTER[2:], directory=tmp_path / "process"
    )
    assert (code, str(weights) in log, "Traceback" in log) == (1, True, False)
