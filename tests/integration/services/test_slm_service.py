"""The small model's process: real model, real server."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from trivium.v1 import common_pb2, slm_pb2, slm_pb2_grpc

from services.common.serving.channels import open_channel
from services.common.tensors import unpack
from tests.integration.harness.processes import run_to_end, running
from tests.serving import error_of, read, until

pytestmark = pytest.mark.integration

SLM = str(Path(__file__).parents[3] / "evaluation/reference/weights/slm")


def _open(sequence_id: int, draft_until: int) -> slm_pb2.DraftCommand:
    command = slm_pb2.OpenSequence(token_ids=[5, 6, 7], draft_until=draft_until)
    return slm_pb2.DraftCommand(sequence_id=sequence_id, open=command)


async def _drafts(call: Any, num_rows: int) -> list[int]:
    token_ids: list[int] = []
    while len(token_ids) < num_rows:
        response = await read(call)
        assert not response.errors
        token_ids += response.token_ids
    return token_ids


async def _info(stub: Any) -> slm_pb2.SlmServiceGetServerInfoResponse:
    info: slm_pb2.SlmServiceGetServerInfoResponse = await stub.GetServerInfo(slm_pb2.SlmServiceGetServerInfoRequest())
    return info


@pytest.mark.alone
async def test_process_drafts_with_features_survives_bad_input_and_frees_cancelled_sequences(tmp_path: Path) -> None:
    async with (
        running("services.slm", "--model", SLM, "--max-message-mb", "1", directory=tmp_path) as process,
        open_channel(process.target) as channel,
    ):
        stub = slm_pb2_grpc.SlmServiceStub(channel)
        info = await _info(stub)
        call = stub.Draft()
        await call.write(slm_pb2.DraftRequest(commands=[_open(1, 4), _open(2, 4)]))
        response = await read(call)
        hidden_states = unpack(response.hidden_states, field="hidden_states", shape=(None, info.model.hidden_size))
        top_logits = unpack(response.top_logits, field="top_logits", shape=(None, 100))
        assert len(hidden_states) == len(response.token_ids)
        assert (np.diff(top_logits, axis=1) <= 0).all()

        too_big = slm_pb2.DraftRequest(commands=[_open(3, 4)])
        too_big.commands[0].open.token_ids.extend([700] * 1_000_000)
        assert (await error_of(stub.Draft(), too_big)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        malformed = slm_pb2.DraftRequest(commands=[slm_pb2.DraftCommand(sequence_id=9)])
        assert (await error_of(stub.Draft(), malformed)).code() == grpc.StatusCode.INVALID_ARGUMENT
        await call.write(slm_pb2.DraftRequest(commands=[_open(4, info.model.vocab_size)]))
        await _drafts(call, 4)
        assert (await _info(stub)).load.num_active_sequences == 3
        call.cancel()

        async def is_free() -> bool:
            load = (await _info(stub)).load
            return load.num_active_sequences == 0

        await until(is_free, timeout_s=1.0)
        assert await process.is_serving(channel)
    assert "Traceback" not in process.log


async def test_sigterm_lets_open_sequences_finish_then_exits_0(tmp_path: Path) -> None:
    async with (
        running("services.slm", "--model", SLM, directory=tmp_path) as process,
        open_channel(process.target) as channel,
    ):
        call = slm_pb2_grpc.SlmServiceStub(channel).Draft()
        await call.write(slm_pb2.DraftRequest(commands=[_open(1, 4)]))
        await _drafts(call, 1)
        process.signal(signal.SIGTERM)

        async def is_draining() -> bool:
            return not await process.is_serving(channel)

        await until(is_draining)
        grant = slm_pb2.DraftCommand(sequence_id=1, grant=slm_pb2.GrantDraft(draft_until=6))
        await call.write(slm_pb2.DraftRequest(commands=[grant, _open(2, 9)]))
        errors: list[common_pb2.SequenceError] = []
        num_drafts = 0
        while num_drafts < 2 or not errors:
            response = await read(call)
            errors += response.errors
            num_drafts += len(response.token_ids)
        assert [(error.sequence_id, error.code) for error in errors] == [(2, grpc.StatusCode.UNAVAILABLE.value[0])]
        close = slm_pb2.DraftCommand(sequence_id=1, close=slm_pb2.CloseSequence())
        error = await error_of(call, slm_pb2.DraftRequest(commands=[close]))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert await process.until_exited() == 0


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "word"),
    [
        (["--model", SLM], {"TRIVIUM_SLM_MODLE": "x"}, 2, "did you mean TRIVIUM_SLM_MODEL?"),
        (["--model", SLM, "--port", "http"], {}, 2, "--port"),
        (["--model", "/no/such/directory"], {}, 1, "/no/such/directory"),
    ],
)
async def test_process_that_cannot_start_names_why_without_a_traceback(
    arguments: list[str], environ: dict[str, str], code: int, word: str, tmp_path: Path
) -> None:
    exit_code, log = await run_to_end("services.slm", *arguments, directory=tmp_path, environ=environ)
    assert exit_code == code
    assert word in log
    assert "Traceback" not in log
