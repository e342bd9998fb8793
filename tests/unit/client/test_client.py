"""The client before servers of this process that end calls in every way there is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import pytest
from trivium.v1 import orchestrator_pb2 as pb

from services.client import AsyncClient, CallFailed, GenerationFailed, Options, text_request
from services.client.targets import Targets
from services.common.errors import KIND_KEY
from services.common.serving.channels import open_channel
from tests.serving import until
from tests.unit.client.fake_orchestrator import ANSWER, Call, FakeOrchestrator, abort, hang, serving

CODE = grpc.StatusCode
PATIENCE_S = 30.0
LOST = abort(CODE.UNAVAILABLE)


@asynccontextmanager
async def client_of(*orchestrators: FakeOrchestrator, **options: Any) -> AsyncIterator[AsyncClient]:
    async with serving(*orchestrators) as targets, AsyncClient(targets, **options) as client:
        yield client


def calls(*ways: Call) -> FakeOrchestrator:
    return FakeOrchestrator(deque(ways))


async def assert_answers(client: AsyncClient, **fields: Any) -> None:
    completion = await client.complete(pb.GenerateRequest(text="x", **fields), timeout_s=PATIENCE_S)
    assert tuple(completion.token_ids) == ANSWER
    assert completion.text == "".join(map(chr, ANSWER))
    assert [token.text for token in completion.tokens] == list(map(chr, ANSWER))
    assert completion.prompt.num_tokens == 7
    assert completion.usage.num_completion_tokens == len(ANSWER)


async def failure_of(
    client: AsyncClient, request: pb.GenerateRequest | None = None, **options: Any
) -> GenerationFailed:
    with pytest.raises(GenerationFailed) as error:
        await client.complete(request or text_request("x"), **options)
    return error.value


async def test_stream_lost_again_and_again_resumes_at_the_token_after_its_last() -> None:
    orchestrator = calls(Call(3, LOST), Call(0, LOST), Call(0, abort(CODE.CANCELLED)), Call(5, LOST))
    async with client_of(orchestrator) as client:
        await assert_answers(client)
    requests = orchestrator.requests
    assert [request.resume_from if request.HasField("resume_from") else None for request in requests] == [
        None, 3, 3, 3, 8,
    ]  # fmt: skip
    assert len({request.request_id for request in requests}) == 1
    assert requests[0].request_id


@pytest.mark.parametrize("code", [CODE.UNAVAILABLE, CODE.CANCELLED, CODE.INTERNAL, CODE.DEADLINE_EXCEEDED])
async def test_stream_lost_between_its_last_message_and_its_status_is_whole(code: grpc.StatusCode) -> None:
    orchestrator = calls(Call(last_act=abort(code)))
    async with client_of(orchestrator) as client:
        await assert_answers(client)
    assert len(orchestrator.requests) == 1


async def test_stream_lost_before_its_first_token_says_that_it_resumes_at_zero() -> None:
    orchestrator = calls(Call(0, LOST))
    async with client_of(orchestrator) as client:
        await assert_answers(client)
    assert [request.HasField("resume_from") for request in orchestrator.requests] == [False, True]


async def test_caller_that_resumes_gets_the_rest() -> None:
    orchestrator = calls(Call(3, LOST))
    async with client_of(orchestrator) as client:
        got = [
            token
            async for part in client.generate(pb.GenerateRequest(text="x", request_id="r", resume_from=4))
            for token in part.token_ids
        ]
    assert tuple(got) == ANSWER[4:]
    assert [request.resume_from for request in orchestrator.requests] == [4, 7]


async def test_request_is_sent_as_given_and_stays_as_it_is() -> None:
    orchestrator = calls(Call(3, LOST))
    request = pb.GenerateRequest(text="x", stop=["é"], request_id="mine", max_new_tokens=20)
    kept = pb.GenerateRequest.FromString(request.SerializeToString())
    async with client_of(orchestrator, api_key="secret") as client:
        await assert_answers(client, stop=["é"], request_id="mine", max_new_tokens=20)
        await client.complete(request)
    assert request == kept
    first, second, _ = orchestrator.requests
    assert first == request
    second.ClearField("resume_from")
    assert second == request


async def test_key_of_a_call_is_sent_with_all_of_its_attempts_and_the_clients_with_other_calls() -> None:
    orchestrator = calls(Call(3, LOST))
    async with client_of(orchestrator, api_key="own") as client:
        await client.complete(pb.GenerateRequest(text="x"), api_key="caller")
        await client.complete(pb.GenerateRequest(text="x"))
    assert orchestrator.keys == ["Bearer caller", "Bearer caller", "Bearer own"]


async def test_stream_of_another_key_is_not_cancelled_for_its_name() -> None:
    orchestrator = calls()
    async with client_of(orchestrator) as client:
        stream = client.generate(pb.GenerateRequest(text="x", request_id="r"), api_key="a")
        await anext(stream)
        # The orchestrator of this test asks for no key, and knows the name: the client alone tells them apart.
        await client.cancel("r", api_key="b")
        assert [part async for part in stream][-1].HasField("finish")


async def test_requests_take_turns_and_go_on_at_the_other_orchestrator() -> None:
    first, second = calls(), calls()
    async with client_of(first, second) as client:
        # Until both are connected, the first that answers is asked.
        while not (first.requests and second.requests):
            await assert_answers(client)
        first.requests.clear()
        second.requests.clear()
        for _ in range(4):
            await assert_answers(client)
        assert (len(first.requests), len(second.requests)) == (2, 2)
        for orchestrator in (first, second):
            orchestrator.calls.append(Call(3, LOST))
        await assert_answers(client)
    assert (len(first.requests), len(second.requests)) in ((4, 3), (3, 4))
    assert {request.resume_from for request in (first.requests[2:] + second.requests[2:])} == {0, 3, 6}


async def test_target_that_stands_for_several_orchestrators_spreads_calls_and_asks_each_to_cancel() -> None:
    first, second = calls(Call(3, LOST)), calls()
    await first.start("127.0.0.1:0")
    port = first.target.rpartition(":")[2]
    await second.start(f"127.0.0.2:{port}")
    try:
        async with AsyncClient(f"ipv4:127.0.0.1:{port},127.0.0.2:{port}") as client:
            for _ in range(6):
                await assert_answers(client)
            assert not await client.cancel("unknown")
        assert min(len(first.requests), len(second.requests)) >= 3
        assert first.cancelled_ids == second.cancelled_ids == ["unknown"]
    finally:
        await asyncio.gather(first.kill(), second.kill())


async def test_nobody_listening_fails_at_once_and_says_what_to_do() -> None:
    async with AsyncClient(["127.0.0.1:1", "127.0.0.1:2"]) as client:
        began = time.monotonic()
        error = await failure_of(client)
        assert time.monotonic() - began < 10
        with pytest.raises(CallFailed, match="nobody listens"):
            await client.server_info()
    assert (error.code, error.num_tokens) == (CODE.UNAVAILABLE, 0)
    assert "nobody listens at 127.0.0.1:1, 127.0.0.1:2: is the address right" in error.message


async def test_target_where_nobody_listens_is_passed_over() -> None:
    orchestrator = calls()
    async with serving(orchestrator) as [target], AsyncClient(["127.0.0.1:1", target, "127.0.0.1:2"]) as client:
        for _ in range(3):
            await assert_answers(client)
        assert (await client.server_info()).context_length == 512


async def test_name_that_led_nowhere_is_looked_up_anew_though_its_channel_waits() -> None:
    first, second = calls(Call(3, hang)), calls()
    async with serving(first, second):
        num_opened = 0

        def lead(_name: str, /, **options: Any) -> grpc.aio.Channel:
            # Channels keep what they looked up, and wait longer and longer before they look again.
            nonlocal num_opened
            num_opened += 1
            return open_channel((first if num_opened == 1 else second).target, **options)

        async with AsyncClient("name", open_channel=lead) as client:
            answering = asyncio.create_task(assert_answers(client))
            await until(lambda: first.num_running, PATIENCE_S)
            await first.kill()
            await answering
    assert [request.resume_from for request in second.requests] == [3]


async def test_call_that_runs_while_nobody_new_can_be_reached_goes_on() -> None:
    orchestrator = calls(Call(3, hang))
    async with serving(orchestrator) as [target]:
        listens = True

        def lead(_name: str, /, **options: Any) -> grpc.aio.Channel:
            return open_channel(target if listens else "127.0.0.1:9", **options)

        targets = Targets(["name"], lead, 2.0)
        found = await targets.pick()
        assert found is not None
        call = found.stub.Generate(pb.GenerateRequest(text="x"))
        for _ in range(3):
            await call.read()
        listens = False
        targets.renew(found)
        assert await targets.pick() is None
        assert not call.done()
        await targets.close()
        assert await call.code() is CODE.CANCELLED


async def test_orchestrator_that_is_restarted_on_its_port_goes_on_with_its_streams() -> None:
    old, new = calls(Call(5, hang)), calls()
    failures: list[CallFailed] = []
    async with serving(old) as [target], AsyncClient(target) as client:
        streaming = asyncio.create_task(client.complete(text_request("x"), on_retry=failures.append))
        await until(lambda: old.num_running == 1, PATIENCE_S)
        await asyncio.sleep(0.1)
        await old.kill()
        await asyncio.sleep(0.5)
        await new.start(target)
        assert tuple((await streaming).token_ids) == ANSWER
        await new.kill()
    assert new.requests[0].resume_from == 5
    assert failures


async def test_each_pause_is_told_once_however_many_attempts_it_takes() -> None:
    failures: list[CallFailed] = []
    attempts = [Call(2, LOST), Call(0, LOST), Call(0, LOST), Call(1, LOST), Call(0, LOST)]
    async with client_of(calls(*attempts), draw=random.Random(0)) as client:
        completion = await client.complete(text_request("x"), on_retry=failures.append)
    assert tuple(completion.token_ids) == ANSWER
    assert len(failures) == 2


async def test_request_is_given_up_after_retry_s_without_progress() -> None:
    orchestrator = calls(Call(4, LOST), *[Call(0, LOST)] * 100)
    async with client_of(orchestrator, retry_s=0.5, draw=random.Random(0)) as client:
        error = await failure_of(client)
    assert (error.code, error.message, error.num_tokens) == (CODE.UNAVAILABLE, "ended", 4)
    assert len(orchestrator.requests) > 3


async def test_deadline_covers_all_attempts_together() -> None:
    orchestrator = calls(*[Call(1, LOST)] * 3, Call(0, hang))
    async with client_of(orchestrator) as client:
        began = time.monotonic()
        error = await failure_of(client, timeout_s=1.0)
        assert 0.9 < time.monotonic() - began < 10
    assert (error.code, error.num_tokens) == (CODE.DEADLINE_EXCEEDED, 3)
    assert "isn't complete after 1 s; it was interrupted by UNAVAILABLE: ended" in error.message


@pytest.mark.parametrize("code", [CODE.INVALID_ARGUMENT, CODE.FAILED_PRECONDITION, CODE.INTERNAL])
async def test_refusal_is_told_as_it_is_and_not_repeated(code: grpc.StatusCode) -> None:
    orchestrator = calls(Call(2, abort(code, "stop[0]: no")))
    async with client_of(orchestrator) as client:
        error = await failure_of(client)
    assert (error.code, error.message, error.num_tokens) == (code, "stop[0]: no", 2)
    assert len(orchestrator.requests) == 1


async def test_full_orchestrator_is_told_with_the_time_to_try_again_unless_the_stream_has_begun() -> None:
    full = Call(0, abort(CODE.RESOURCE_EXHAUSTED, "max_calls", grpc_retry_pushback_ms="100"))
    refusing, busy = calls(full), calls(Call(2, LOST), full, full)
    async with client_of(refusing) as client:
        error = await failure_of(client)
        assert (error.code, error.retry_after_s) == (CODE.RESOURCE_EXHAUSTED, 0.1)
    async with client_of(busy) as client:
        await assert_answers(client)


async def test_request_that_somebody_cancelled_is_not_sent_again() -> None:
    told = {KIND_KEY: "Cancelled"}
    orchestrator = calls(Call(2, abort(CODE.CANCELLED, "request 'r' was cancelled", **told)))
    async with client_of(orchestrator) as client:
        assert (await failure_of(client)).code is CODE.CANCELLED
    assert len(orchestrator.requests) == 1


async def test_leaving_the_stream_ends_the_call() -> None:
    orchestrator = calls(Call(2, hang))
    async with client_of(orchestrator) as client:
        async with aclosing(client.generate(text_request("x"))) as parts:
            await anext(parts)
            assert orchestrator.num_running == 1
        await until(lambda: orchestrator.num_running == 0, PATIENCE_S)
        waiting = asyncio.create_task(client.complete(text_request("x")))
        orchestrator.calls.append(Call(2, hang))
        await until(lambda: orchestrator.num_running == 1, PATIENCE_S)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: orchestrator.num_running == 0, PATIENCE_S)


@pytest.mark.parametrize("way", [Call(2, hang), Call(2, LOST)], ids=["streams", "pauses"])
async def test_cancel_ends_a_stream_of_this_client_and_asks_every_orchestrator(way: Call) -> None:
    orchestrators = [calls(way, *[Call(0, LOST)] * 50) for _ in range(2)]
    async with client_of(*orchestrators) as client:
        streaming = asyncio.create_task(failure_of(client, text_request("x", Options(request_id="r"))))
        await until(lambda: any(each.requests for each in orchestrators), PATIENCE_S)
        await asyncio.sleep(0.2)
        assert await client.cancel("r")
        error = await asyncio.wait_for(streaming, PATIENCE_S)
        assert error.code is CODE.CANCELLED
        assert error.num_tokens in (2, 4)
        await until(lambda: not any(each.num_running for each in orchestrators), PATIENCE_S)
    assert [each.cancelled_ids for each in orchestrators] == [["r"], ["r"]]


async def test_closing_the_client_fails_its_streams() -> None:
    orchestrator = calls(Call(2, hang))
    async with client_of(orchestrator) as client:
        streaming = asyncio.create_task(failure_of(client))
        await until(lambda: orchestrator.num_running == 1, PATIENCE_S)
        await asyncio.sleep(0.1)
        await client.close()
        error = await asyncio.wait_for(streaming, PATIENCE_S)
    assert (error.code, error.message) == (CODE.CANCELLED, "the client was closed")


async def test_answer_that_resumes_with_a_gap_is_an_error() -> None:
    class Forgetful(FakeOrchestrator):
        async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
            if request.resume_from:
                request.resume_from += 1
            async for response in super().Generate(request, context):
                yield response

    async with client_of(Forgetful(deque([Call(2, LOST)]))) as client:
        error = await failure_of(client)
    assert (error.code, error.num_tokens) == (CODE.INTERNAL, 19)
    assert "19 of 20 tokens arrived" in error.message


async def test_streams_whose_orchestrators_end_at_random_lose_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    draw = random.Random(0)
    orchestrators = [FakeOrchestrator() for _ in range(3)]
    for orchestrator in orchestrators:
        orchestrator.calls = deque(
            Call(draw.randrange(20), draw.choice([LOST, abort(CODE.CANCELLED)])) for _ in range(30)
        )

    async def restart() -> None:
        while True:
            await asyncio.sleep(draw.uniform(0, 0.1))
            victim = draw.choice(orchestrators)
            await victim.kill()
            await victim.start(victim.target)

    async with client_of(*orchestrators) as client:
        trouble = asyncio.create_task(restart())
        try:
            await asyncio.gather(*(assert_answers(client) for _ in range(32)))
        finally:
            trouble.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await trouble
