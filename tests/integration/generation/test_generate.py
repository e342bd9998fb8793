"""Generate on a running pair: many streams, ends, text, usage, sampling, and cancels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from trivium.v1 import common_pb2, orchestrator_pb2

from evaluation.exactness import Reference
from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.pair import LoadedPair
from services.cli.channel import local_channel
from tests.integration.harness.completions import (
    FIRST_HELD_OUT,
    assert_is_reference,
    begin,
    client,
    cycled,
    endless_request,
    generate,
    request_for,
    status_of,
    tell,
)
from tests.integration.harness.pair import RunningPair, front_info, llm_info, router_load, slm_load
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


async def test_64_streams_equal_their_references_in_shared_batches(
    pair: RunningPair, references: list[Reference]
) -> None:
    chosen = cycled(references, 64)
    before = await _rows_and_steps(pair)

    async with client(pair.front) as stub:
        requests = [request_for(reference, run_ahead_depth=index % 9) for index, reference in enumerate(chosen)]
        completions = await asyncio.gather(*(generate(stub, request) for request in requests))

    for completion, reference in zip(completions, chosen, strict=True):
        assert_is_reference(completion, reference)
    for name, (num_rows, num_steps) in (await _rows_and_steps(pair)).items():
        batch = (num_rows - before[name][0]) / (num_steps - before[name][1])
        tell(f"mean batch of the {name}", round(batch, 1))
        assert batch > 1 if name == "llm" else batch > 2
    await until(_is_idle(pair), timeout_s=20)


async def _cancel_call(stub: Any, call: Any, request_id: str) -> grpc.StatusCode:
    call.cancel()
    return grpc.StatusCode.CANCELLED


async def _cancel_by_name(stub: Any, call: Any, request_id: str) -> grpc.StatusCode:
    response = await stub.Cancel(orchestrator_pb2.CancelRequest(request_id=request_id))
    assert response.cancelled
    return (await status_of(call)).code()


async def _let_the_deadline_pass(stub: Any, call: Any, request_id: str) -> grpc.StatusCode:
    return (await status_of(call)).code()


@pytest.mark.alone
@pytest.mark.parametrize(
    ("end", "timeout_s", "code"),
    [
        (_cancel_call, None, grpc.StatusCode.CANCELLED),
        (_cancel_by_name, None, grpc.StatusCode.CANCELLED),
        (_let_the_deadline_pass, 2.0, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
    ids=["call", "rpc", "deadline"],
)
async def test_cancelled_stream_frees_its_slots_everywhere_within_a_second(
    pair: RunningPair,
    references: list[Reference],
    reference_pair: LoadedPair,
    end: Callable[..., Any],
    timeout_s: float | None,
    code: grpc.StatusCode,
) -> None:
    request = _endless(references[0], reference_pair)
    request.request_id = "to be cancelled"
    # The LLM writes all of it, without run-ahead: a quick machine would be done before the deadline otherwise.
    request.threshold, request.run_ahead_depth = 0.0, 0

    async def frees_in_s() -> float:
        async with client(pair.front) as stub:
            call = stub.Generate(request, timeout=timeout_s)
            await begin(call)
            assert (await front_info(pair.front)).load.num_active_requests == 1
            assert await end(stub, call, request.request_id) == code
            ended = time.monotonic()
            await until(_is_idle(pair), timeout_s=20)
            return time.monotonic() - ended

    latencies = [await frees_in_s() for _ in range(3)]
    tell("slots freed after, s", [round(latency, 3) for latency in latencies])
    # The machine may be busy with others once.
    assert median(latencies) < 1.0


async def test_client_that_knows_nothing_but_reflection_streams(
    pair: RunningPair, routed_references: list[Reference]
) -> None:
    reference = routed_references[0]

    def ask() -> list[Any]:
        with local_channel(pair.front.address) as channel:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            method = pool.FindServiceByName("trivium.v1.OrchestratorService").FindMethodByName("Generate")
            request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            call = channel.unary_stream(
                f"/{method.containing_service.full_name}/{method.name}",
                request_serializer=request_type.SerializeToString,
                response_deserializer=response_type.FromString,
            )
            prompt = {"tokenIds": {"tokenIds": list(reference.prompt_token_ids)}, "threshold": reference.threshold}
            return list(call(ParseDict(prompt, request_type())))

    responses = await asyncio.to_thread(ask)
    assert len(responses) > 1
    written = [token_id for response in responses for token_id in response.token_ids]
    assert written == [token.token_id for token in reference.completion]
    assert responses[-1].finish.usage.num_completion_tokens == len(written)


async def test_cancel_of_an_unknown_request_says_so(pair: RunningPair) -> None:
    async with client(pair.front) as stub:
        assert not (await stub.Cancel(orchestrator_pb2.CancelRequest(request_id="nobody"))).cancelled


async def test_usage_adds_up_and_the_request_id_is_echoed(
    pair: RunningPair, routed_references: list[Reference]
) -> None:
    reference = routed_references[0]
    async with client(pair.front) as stub:
        completion = await generate(stub, request_for(reference, request_id="an id of ours"))
        info = await front_info(pair.front)

    usage = completion.usage
    assert completion.request_ids == {"an id of ours"}
    assert usage.num_prompt_tokens == len(reference.prompt_token_ids)
    assert usage.num_completion_tokens == len(completion.token_ids)
    assert usage.num_llm_tokens == sum(completion.from_llm) > 0
    assert usage.llm_usage_rate == pytest.approx(usage.num_llm_tokens / usage.num_completion_tokens)
    assert usage.threshold == pytest.approx(reference.threshold)
    assert usage.num_slm_tokens_reused + usage.num_slm_tokens_prefilled == usage.num_prompt_tokens
    parameters = (info.slm.num_parameters, info.router.num_parameters, info.llm.num_parameters)
    average = parameters[0] + parameters[1] + parameters[2] * usage.llm_usage_rate
    assert usage.avg_activated_params_b == pytest.approx(average / 1e9)


async def test_absent_request_id_is_chosen_and_differs(pair: RunningPair, references: list[Reference]) -> None:
    async with client(pair.front) as stub:
        request = request_for(references[0])
        request.max_new_tokens = 3
        first, second = await generate(stub, request), await generate(stub, request)
    (one,), (other,) = first.request_ids, second.request_ids
    assert one
    assert one != other


async def test_text_of_every_message_is_whole_and_joins_to_the_decoded_tokens(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    request = _endless(references[0], reference_pair, num_tokens=200)
    texts = []
    token_ids: list[int] = []
    async with client(pair.front) as stub:
        async for response in stub.Generate(request):
            texts.append(response.text)
            token_ids += response.token_ids

    # Hot sampling draws bytes that are no character at all: only the last message may have to give up on some.
    whole = reference_pair.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(texts) == whole
    for index in range(len(texts) - 1):
        assert whole.startswith("".join(texts[: index + 1]))


@pytest.mark.parametrize("depth", [0, 16])
async def test_stop_string_across_token_borders_ends_before_it(
    pair: RunningPair, routed_references: list[Reference], reference_pair: LoadedPair, depth: int
) -> None:
    reference = routed_references[0]
    pieces = [str(reference_pair.tokenizer.decode([token.token_id])) for token in reference.completion]
    text = "".join(pieces)
    # From the middle of one token into the middle of another, and nowhere before.
    start, end = next(
        (start, start + 7)
        for start in range(len(text) // 3, len(text) - 7)
        if text.index(text[start : start + 7]) == start and not _is_border(pieces, start)
    )

    async with client(pair.front) as stub:
        completion = await generate(stub, request_for(reference, stop=[text[start:end]], run_ahead_depth=depth))

    assert completion.finish is not None
    assert completion.finish.reason == orchestrator_pb2.FINISH_REASON_STOP
    assert completion.finish.stop == text[start:end]
    assert completion.text == text[:start]
    assert len(completion.token_ids) == _num_tokens_to(pieces, end)


async def test_max_new_tokens_ends_with_length(pair: RunningPair, references: list[Reference]) -> None:
    reference = references[0]
    request = request_for(reference, run_ahead_depth=16)
    request.max_new_tokens = 7
    async with client(pair.front) as stub:
        completion = await generate(stub, request)
    assert completion.finish is not None
    assert completion.finish.reason == orchestrator_pb2.FINISH_REASON_LENGTH
    assert completion.token_ids == [token.token_id for token in reference.completion[:7]]


async def test_context_limit_ends_with_length(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    context_len = (await front_info(pair.front)).context_length
    request = _endless(references[0], reference_pair, num_tokens=40)
    num_room = 30
    prompt = cycled_ids(references[0].prompt_token_ids, context_len - num_room)
    request.token_ids.token_ids[:] = prompt
    request.run_ahead_depth = 16
    async with client(pair.front) as stub:
        # Where noise draws an end of sequence depends on the position, so more than one seed is tried.
        completions = []
        for seed in range(20):
            request.sampling.seed = seed
            completions.append(await generate(stub, request))
            if len(completions[-1].token_ids) == num_room:
                break
    last = completions[-1]
    assert last.finish is not None
    assert last.finish.reason == orchestrator_pb2.FINISH_REASON_LENGTH
    assert len(last.token_ids) == num_room


async def test_sampling_with_a_seed_is_the_same_at_every_depth_and_load(
    pair: RunningPair, references: list[Reference]
) -> None:
    def request(seed: int, depth: int) -> orchestrator_pb2.GenerateRequest:
        sampling = common_pb2.SamplingParams(temperature=1.2, top_p=0.95, top_k=50, seed=seed)
        routed = request_for(references[0], sampling=sampling, run_ahead_depth=depth)
        routed.threshold, routed.max_new_tokens = 0.3, 60
        return routed

    async with client(pair.front) as stub:
        alone = {seed: (await generate(stub, request(seed, 0))).token_ids for seed in range(3)}
        together = await asyncio.gather(*(generate(stub, request(index % 3, 16)) for index in range(12)))

    assert len({tuple(token_ids) for token_ids in alone.values()}) == 3
    for index, completion in enumerate(together):
        assert completion.token_ids == alone[index % 3]


async def test_chat_is_rendered_as_the_pair_was_trained(pair: RunningPair, references: list[Reference]) -> None:
    message = orchestrator_pb2.ChatMessage(role="user", content=draw_sample(FIRST_HELD_OUT).query)
    request = request_for(references[0])
    request.chat.messages.append(message)
    async with client(pair.front) as stub:
        assert_is_reference(await generate(stub, request), references[0])


def _endless(reference: Reference, pair: LoadedPair, num_tokens: int = 900) -> orchestrator_pb2.GenerateRequest:
    request: orchestrator_pb2.GenerateRequest = endless_request(reference, num_tokens, pair)
    return request


async def _rows_and_steps(pair: RunningPair) -> dict[str, tuple[int, int]]:
    slm, router, llm = await slm_load(pair.slm), await router_load(pair.router), (await llm_info(pair.llm)).load
    return {
        "slm": (slm.num_rows, slm.num_steps),
        "router": (router.num_rows, router.num_steps),
        "llm": (llm.num_rows, llm.num_steps),
    }


def _is_idle(pair: RunningPair) -> Callable[[], Any]:
    async def is_idle() -> bool:
        front = (await front_info(pair.front)).load.num_active_requests
        slm = (await slm_load(pair.slm)).num_active_sequences
        return not (front or slm or (await llm_info(pair.llm)).load.num_active_sequences)

    return is_idle


def _is_border(pieces: list[str], offset: int) -> bool:
    return any(len("".join(pieces[:index])) == offset for index in range(len(pieces)))


def _num_tokens_to(pieces: list[str], end: int) -> int:
    return next(index for index in range(len(pieces) + 1) if len("".join(pieces[:index])) >= end)


def cycled_ids(token_ids: tuple[int, ...], number: int) -> list[int]:
    return [token_ids[index % len(token_ids)] for index in range(number)]
