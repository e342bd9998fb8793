from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from trivium.v1 import common_pb2, router_pb2, router_pb2_grpc

from router_service.checkpoint_files import CheckpointError
from router_service.serving.followed import CheckpointSource
from router_service.serving.servicer import SERVICE_NAME, RouterServicer
from services.common.serving.lifecycle import Lifecycle
from services.common.tensors import pack, unpack
from tests.scraping import scraped
from tests.serving import error_of, read, serving, until

VOCAB_SIZE, HIDDEN_SIZE, NUM_TOP_LOGITS = 50, 4, 100


class _Scorer:
    """Scores a row by its token id and features, so that mixed-up rows show. Waits while `may_score` is clear."""

    def __init__(self) -> None:
        self.info = router_pb2.RouterInfo(vocab_size=VOCAB_SIZE, hidden_size=HIDDEN_SIZE, default_threshold=0.25)
        self.num_top_logits = NUM_TOP_LOGITS
        self.batch_sizes: list[int] = []
        self.may_score = threading.Event()
        self.may_score.set()
        self.is_scoring = threading.Event()

    def score(
        self, token_ids: NDArray[np.int64], hidden_states: NDArray[np.float32], top_logits: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        self.is_scoring.set()
        self.may_score.wait(5)
        self.batch_sizes.append(len(token_ids))
        return _scores(token_ids, hidden_states, top_logits)

    def warm_up(self, num_rows: int) -> None:
        pass


def _scores(token_ids: Any, hidden_states: Any, top_logits: Any) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = ((np.asarray(token_ids) + hidden_states[:, 0] + top_logits[:, -1]) / 100).astype(
        "f4"
    )
    return scores


class _Router:
    def __init__(self, channel: grpc.aio.Channel, scorer: _Scorer, lifecycle: Lifecycle, servicer: Any) -> None:
        self.stub = router_pb2_grpc.RouterServiceStub(channel)
        self.scorer = scorer
        self.lifecycle = lifecycle
        self.servicer = servicer

    async def info(self) -> router_pb2.RouterServiceGetServerInfoResponse:
        info: router_pb2.RouterServiceGetServerInfoResponse = await self.stub.GetServerInfo(
            router_pb2.RouterServiceGetServerInfoRequest()
        )
        return info

    async def num_rows_waiting(self) -> int:
        return (await self.info()).load.num_rows_waiting


@asynccontextmanager
async def _router(**options: Any) -> AsyncIterator[_Router]:
    lifecycle, scorer = Lifecycle(SERVICE_NAME, "r1"), _Scorer()
    servicer = RouterServicer(CheckpointSource(lambda: scorer), lifecycle, **options)
    async with serving(servicer, lifecycle, max_message_mb=1) as channel:
        yield _Router(channel, scorer, lifecycle, servicer)
        scorer.may_score.set()


def _features(seed: int, num_rows: int) -> tuple[list[int], NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, VOCAB_SIZE, num_rows).tolist()
    return (
        token_ids,
        rng.random((num_rows, HIDDEN_SIZE), np.float32),
        rng.random((num_rows, NUM_TOP_LOGITS), np.float32),
    )


def _request(seed: int, num_rows: int) -> router_pb2.ScoreRequest:
    token_ids, hidden_states, top_logits = _features(seed, num_rows)
    return router_pb2.ScoreRequest(
        batch_id=seed, token_ids=token_ids, hidden_states=pack(hidden_states), top_logits=pack(top_logits)
    )


async def _check_next(call: Any, num_rows: int) -> int:
    response: router_pb2.ScoreResponse = await read(call)
    scores = unpack(response.divergence_probabilities, field="scores", shape=(num_rows,))
    np.testing.assert_array_equal(scores, _scores(*_features(response.batch_id, num_rows)))
    return response.batch_id


async def test_score_answers_each_batch_with_its_own_scores() -> None:
    async with _router() as router:
        call = router.stub.Score()
        for seed in (3, 1, 2):
            await call.write(_request(seed, 5))
        assert {await _check_next(call, 5) for _ in range(3)} == {1, 2, 3}


async def test_two_streams_waiting_share_one_forward_without_mixing_rows() -> None:
    async with _router() as router:
        calls = [router.stub.Score(), router.stub.Score()]
        router.scorer.may_score.clear()
        await calls[0].write(_request(0, 1))
        await until(router.scorer.is_scoring.is_set)
        for seed, call in ((1, calls[0]), (2, calls[1]), (3, calls[1])):
            await call.write(_request(seed, 4))

        async def all_wait() -> bool:
            return await router.num_rows_waiting() == 12

        await until(all_wait)
        router.scorer.may_score.set()
        # Four rows of this stream, eight of the other one are left to score.
        assert (await read(calls[0])).num_other_rows == 8
        assert await _check_next(calls[0], 4) == 1
        assert {await _check_next(calls[1], 4) for _ in range(2)} == {2, 3}
        assert router.scorer.batch_sizes == [1, 12]
        load = (await router.info()).load
        assert (load.num_steps, load.num_rows, load.num_rows_waiting) == (2, 13, 0)


async def test_metrics_tell_the_rows_that_are_scored_and_those_that_wait() -> None:
    async with _router() as router:
        with scraped(router.servicer) as values:
            assert (values()["trivium_router_batch_rows"], values()["trivium_router_waiting_rows"]) == (0, 0)
            call = router.stub.Score()
            router.scorer.may_score.clear()
            await call.write(_request(0, 3))
            await until(router.scorer.is_scoring.is_set)
            await call.write(_request(1, 4))
            await until(lambda: values()["trivium_router_waiting_rows"] == 4)
            assert values()["trivium_router_batch_rows"] == 3
            router.scorer.may_score.set()
            assert {await _check_next(call, 3), await _check_next(call, 4)} == {0, 1}
            assert (values()["trivium_router_batch_rows"], values()["trivium_router_rows_total"]) == (0, 7)


async def test_forward_holds_at_most_max_batch_rows() -> None:
    async with _router(max_batch_rows=8) as router:
        call = router.stub.Score()
        for seed in range(20):
            await call.write(_request(seed, 3))
        for _ in range(20):
            await _check_next(call, 3)
        assert sum(router.scorer.batch_sizes) == 60
        assert max(router.scorer.batch_sizes) <= 8


async def test_step_batch_larger_than_a_forward_takes_several() -> None:
    async with _router(max_batch_rows=8) as router:
        call = router.stub.Score()
        for seed, num_rows in enumerate((20, 8, 9)):
            await call.write(_request(seed, num_rows))
            assert await _check_next(call, num_rows) == seed
        assert router.scorer.batch_sizes == [8, 8, 4, 8, 8, 1]
        info = await router.stub.GetServerInfo(router_pb2.RouterServiceGetServerInfoRequest())
        assert (info.load.num_steps, info.load.num_rows) == (6, 37)


async def test_rows_beyond_max_waiting_are_not_read_until_there_is_room() -> None:
    async with _router(max_waiting_rows=6) as router:
        call = router.stub.Score()
        router.scorer.may_score.clear()
        for seed in range(10):
            await call.write(_request(seed, 3))
        await asyncio.sleep(0.1)
        assert await router.num_rows_waiting() <= 6
        router.scorer.may_score.set()
        assert {await _check_next(call, 3) for _ in range(10)} == set(range(10))


async def test_half_closed_stream_gets_its_answers_and_ends_ok() -> None:
    async with _router() as router:
        call = router.stub.Score()
        await call.write(_request(1, 2))
        await call.write(_request(2, 2))
        await call.done_writing()
        assert {await _check_next(call, 2), await _check_next(call, 2)} == {1, 2}
        assert await call.code() == grpc.StatusCode.OK


async def test_cancelled_stream_has_its_waiting_rows_dropped() -> None:
    async with _router() as router:
        busy, cancelled = router.stub.Score(), router.stub.Score()
        router.scorer.may_score.clear()
        await busy.write(_request(1, 1))
        await until(router.scorer.is_scoring.is_set)
        await cancelled.write(_request(2, 4))

        async def four_wait() -> bool:
            return await router.num_rows_waiting() == 4

        await until(four_wait)
        cancelled.cancel()
        await asyncio.sleep(0.1)
        router.scorer.may_score.set()
        await _check_next(busy, 1)
        await busy.write(_request(3, 1))
        await _check_next(busy, 1)
        assert router.scorer.batch_sizes == [1, 1]


def _changed(**fields: Any) -> router_pb2.ScoreRequest:
    request = _request(1, 2)
    for name, value in fields.items():
        if isinstance(value, common_pb2.Tensor):
            getattr(request, name).CopyFrom(value)
        else:
            getattr(request, name)[:] = value
    return request


def _hidden(**fields: Any) -> common_pb2.Tensor:
    tensor = pack(np.zeros((2, HIDDEN_SIZE), np.float32))
    tensor.MergeFrom(common_pb2.Tensor(**fields))
    return tensor


BAD_REQUESTS = {
    "no rows": (router_pb2.ScoreRequest(batch_id=1), "token_ids"),
    "token id outside the vocabulary": (_changed(token_ids=[1, VOCAB_SIZE]), "token_ids: 50"),
    "fewer token ids than rows": (_changed(token_ids=[1]), "hidden_states.shape"),
    "no features": (router_pb2.ScoreRequest(token_ids=[1]), "hidden_states.dtype"),
    "bytes too few": (_changed(hidden_states=_hidden(data=bytes(31))), "hidden_states.data: expected 32 bytes"),
    "wrong dtype": (_changed(hidden_states=pack(np.zeros((2, 4), np.float16))), "hidden_states.dtype"),
    "wrong hidden size": (_changed(hidden_states=pack(np.zeros((2, 5), np.float32))), "expected [2, 4], got [2, 5]"),
    "wrong number of logits": (_changed(top_logits=pack(np.zeros((2, 99), np.float32))), "top_logits.shape"),
    "logits of another number of rows": (
        _changed(top_logits=pack(np.zeros((3, 100), np.float32))),
        "top_logits.shape",
    ),
    "not finite": (_changed(top_logits=pack(np.full((2, 100), np.nan, np.float32))), "top_logits.data"),
}


@pytest.mark.parametrize(("request_", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
async def test_bad_request_ends_its_stream_only_naming_the_field(
    request_: router_pb2.ScoreRequest, message: str
) -> None:
    async with _router() as router:
        other = router.stub.Score()
        await other.write(_request(1, 2))
        await _check_next(other, 2)
        error = await error_of(router.stub.Score(), request_)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert message in str(error.details())
        await other.write(_request(2, 2))
        await _check_next(other, 2)


async def test_drain_answers_what_was_read_then_ends_streams() -> None:
    async with _router() as router:
        call = router.stub.Score()
        router.scorer.may_score.clear()
        await call.write(_request(1, 2))
        await until(router.scorer.is_scoring.is_set)
        await call.write(_request(2, 2))

        async def second_waits() -> bool:
            return await router.num_rows_waiting() == 2

        await until(second_waits)
        await router.lifecycle.mark_draining()
        await router.servicer.drain()
        router.scorer.may_score.set()
        answered: list[int] = []

        async def read_all() -> None:
            while True:
                answered.append(await _check_next(call, 2))

        with pytest.raises(grpc.aio.AioRpcError) as error:
            await read_all()
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        # grpc.aio drops what its client hasn't read when the status arrives, so the server is asked as well.
        assert answered == [1, 2][: len(answered)]
        info = await router.info()
        assert (info.load.num_rows, info.load.num_rows_waiting) == (4, 0)


async def test_server_info_describes_router_and_replica() -> None:
    async with _router() as router:
        info = await router.info()
        assert (info.router.vocab_size, info.router.default_threshold) == (VOCAB_SIZE, 0.25)
        assert (info.replica.replica_id, info.load.num_steps) == ("r1", 0)


async def test_router_that_reads_another_number_of_logits_does_not_start() -> None:
    scorer = _Scorer()
    scorer.num_top_logits = 64
    servicer = RouterServicer(CheckpointSource(lambda: scorer), Lifecycle(SERVICE_NAME, "r1"))
    with pytest.raises(ValueError, match="num_top_logits is 64, and SLM services send 100"):
        await servicer.start()


async def test_shadow_follows_its_files_and_streams_are_told(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("s1")

    def load() -> _Scorer:
        scorer = _Scorer()
        scorer.info.weights_sha256 = file.read_text()
        if scorer.info.weights_sha256 == "bad":
            raise CheckpointError("bad: can't be used")
        return scorer

    async with _router(shadow=CheckpointSource(load, [file])) as router:
        assert (await router.info()).shadow.weights_sha256 == "s1"
        call = router.stub.Score()
        await call.write(_request(0, 1))
        assert await _check_next(call, 1) == 0
        file.write_text("s22")
        assert (await read(call)).news.shadow.weights_sha256 == "s22"
        request = _request(1, 2)
        request.weights_sha256 = "s22"
        await call.write(request)
        assert await _check_next(call, 2) == 1
        with scraped(router.servicer) as values:
            assert values()["trivium_router_shadow_current"] == 1
            file.write_text("bad")
            await until(lambda: values()["trivium_router_shadow_current"] == 0, timeout_s=20)
            assert values()["trivium_router_checkpoint_current"] == 1
        assert (await router.info()).shadow.weights_sha256 == "s22"
        request = _request(2, 1)
        request.weights_sha256 = "s1"
        await call.write(request)
        assert (await read(call)).weights_unknown


async def test_router_without_a_shadow_tells_of_none() -> None:
    async with _router() as router:
        assert not (await router.info()).HasField("shadow")
