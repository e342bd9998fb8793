"""Keys at the orchestrator's gRPC: who is let in, what tenants may take, and that they don't reach each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from trivium.v1 import orchestrator_pb2 as pb

from services.common.access.keys_file import key_digest, new_key
from services.common.access.tenant import Reason
from tests.serving import until
from tests.unit.orchestrator.front import Front, running_front

KEYS = {"acme": new_key(), "other": new_key()}
CODE = grpc.StatusCode


def _as(tenant: str) -> Any:
    return (("authorization", f"Bearer {KEYS[tenant]}"),)


@asynccontextmanager
async def _front(tmp_path: Path, *, acme: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Front]:
    path = tmp_path / "keys.yaml"
    entries = [{"tenant": name, "sha256": key_digest(key).hex()} for name, key in KEYS.items()]
    path.write_text(yaml.safe_dump({"tenants": {"acme": acme or {}, "other": {}}, "keys": entries}))
    async with running_front(keys_file=path, **settings) as front:
        yield front


def _request(**fields: Any) -> pb.GenerateRequest:
    defaults: dict[str, Any] = {"token_ids": pb.TokenIds(token_ids=[1, 2, 3]), "max_new_tokens": 8}
    return pb.GenerateRequest(**(defaults | fields))


async def _answer(front: Front, tenant: str, **fields: Any) -> list[pb.GenerateResponse]:
    return [part async for part in front.stub.Generate(_request(**fields), metadata=_as(tenant))]


async def _error(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:  # noqa: PT012
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    return error.value


def _retry_after_s(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(_Call(error))
    assert status is not None
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    return float(info.retry_delay.ToMilliseconds() / 1000)


class _Call:
    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        return self._error.code()

    def details(self) -> str | None:
        return self._error.details()

    def trailing_metadata(self) -> Any:
        return self._error.trailing_metadata()


@pytest.mark.parametrize("metadata", [(), (("authorization", f"Bearer {new_key()}"),), (("authorization", "x"),)])
async def test_no_method_that_works_answers_without_a_key_and_health_does(tmp_path: Path, metadata: Any) -> None:
    async with _front(tmp_path) as front:
        for call in (
            front.stub.Generate(_request(), metadata=metadata),
            front.stub.Cancel(pb.CancelRequest(request_id="r"), metadata=metadata),
        ):
            assert (await _error(call)).code() is CODE.UNAUTHENTICATED
        assert front.keys is not None
        assert front.keys.num_refused[Reason.UNKNOWN_KEY] == 2
        # Without a key of its own, a gateway has to learn which pair is served.
        assert (await front.stub.GetServerInfo(pb.OrchestratorServiceGetServerInfoRequest())).context_length > 0
        health = await health_pb2_grpc.HealthStub(front.channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_is_off_where_keys_are_on(tmp_path: Path) -> None:
    async with _front(tmp_path) as front:
        call = reflection_pb2_grpc.ServerReflectionStub(front.channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert (await _error(call)).code() is CODE.UNIMPLEMENTED


async def test_stranger_is_refused_before_his_message_is_received(tmp_path: Path) -> None:
    async with _front(tmp_path) as front:
        call = front.silent_call("Generate")
        assert (await _error(call)).code() is CODE.UNAUTHENTICATED


async def test_key_opens_the_door_and_the_client_gets_its_own_request_id_back(tmp_path: Path) -> None:
    async with _front(tmp_path) as front:
        parts = await _answer(front, "acme", request_id="r")
        assert {part.request_id for part in parts} == {"r"}
        assert parts[-1].finish.usage.num_completion_tokens == 8
        [part, *_] = await _answer(front, "acme")
        assert part.request_id
        assert "acme" not in part.request_id


async def test_request_id_of_another_tenant_is_neither_taken_nor_cancelled_nor_resumed(tmp_path: Path) -> None:
    async with _front(tmp_path) as front:
        endless = _request(request_id="r", max_new_tokens=400)
        call = front.stub.Generate(endless, metadata=_as("acme"))
        await call.read()
        cancel = pb.CancelRequest(request_id="r")
        assert not (await front.stub.Cancel(cancel, metadata=_as("other"))).cancelled
        assert not (await front.stub.Cancel(pb.CancelRequest(request_id="acme/r"), metadata=_as("other"))).cancelled
        resuming = front.stub.Generate(_request(request_id="r", resume_from=1), metadata=_as("other"))
        await resuming.read()
        resuming.cancel()
        assert (await front.stub.Cancel(cancel, metadata=_as("acme"))).cancelled
        assert (await _error(call)).code() is CODE.CANCELLED


async def test_tenant_at_its_limit_is_refused_at_once_and_another_is_not(tmp_path: Path) -> None:
    async with _front(tmp_path, acme={"max_concurrent_requests": 2}) as front:
        running = [front.stub.Generate(_request(max_new_tokens=400), metadata=_as("acme")) for _ in range(2)]
        for call in running:
            await call.read()
        # No message: whoever is at the limit costs nothing.
        refused = await asyncio.gather(*(_error(_silent(front, "acme")) for _ in range(20)))
        assert {error.code() for error in refused} == {CODE.RESOURCE_EXHAUSTED}
        assert {_retry_after_s(error) for error in refused} == {1.0}
        await _answer(front, "other")
        for call in running:
            call.cancel()
        await until(lambda: front.guard.num_active_calls == 0, 20)
        await _answer(front, "acme")


def _silent(front: Front, tenant: str) -> Any:
    stub: Any = front.channel.stream_stream("/trivium.v1.OrchestratorService/Generate")
    return stub(metadata=_as(tenant))


async def test_tokens_of_prompt_and_answer_are_charged_and_make_wait(tmp_path: Path) -> None:
    async with _front(tmp_path, acme={"tokens_per_minute": 10}) as front:
        await _answer(front, "acme")
        error = await _error(_silent(front, "acme"))
        assert error.code() is CODE.RESOURCE_EXHAUSTED
        assert (error.details() or "").startswith("tokens_per_minute")
        # Of 10 there are 3 + 8 gone, and one token is wanted.
        assert 0 < _retry_after_s(error) <= 12.0
        await _answer(front, "other")


@pytest.mark.parametrize(
    ("routing", "fields", "begins"),
    [
        ({"min_threshold": 0.5}, {"threshold": 0.4}, "threshold: "),
        ({"max_threshold": 0.5}, {"threshold": 0.6}, "threshold: "),
        ({"max_llm_usage": 0.0}, {"threshold": 0.0}, "threshold: "),
        ({"llm_loss_policies": ["fail"]}, {}, "llm_loss_policy: wait"),
        ({"llm_loss_policies": ["fail"]}, {"llm_loss_policy": pb.LLM_LOSS_POLICY_SLM_ONLY}, "llm_loss_policy: slm"),
    ],
)
async def test_routing_that_a_tenant_may_not_have_is_denied_by_the_fields_name(
    tmp_path: Path, routing: dict[str, Any], fields: dict[str, Any], begins: str
) -> None:
    async with _front(tmp_path, acme={"routing": routing}) as front:
        error = await _error(front.stub.Generate(_request(**fields), metadata=_as("acme")))
        assert error.code() is CODE.PERMISSION_DENIED
        assert (error.details() or "").startswith(begins)


async def test_request_that_asks_for_no_routing_gets_the_closest_that_is_allowed(tmp_path: Path) -> None:
    async with _front(tmp_path, acme={"routing": {"min_threshold": 0.9, "llm_loss_policies": ["wait"]}}) as front:
        parts = await _answer(front, "acme")
        assert parts[-1].finish.usage.threshold == pytest.approx(0.9)
        parts = await _answer(front, "acme", threshold=0.9)
        assert parts[-1].finish.usage.threshold == pytest.approx(0.9)


async def test_new_key_counts_while_streams_of_the_old_one_go_on(tmp_path: Path) -> None:
    async with _front(tmp_path) as front:
        call = front.stub.Generate(_request(max_new_tokens=100), metadata=_as("acme"))
        await call.read()
        fresh = new_key()
        path = tmp_path / "keys.yaml"
        path.write_text(path.read_text().replace(key_digest(KEYS["acme"]).hex(), key_digest(fresh).hex()))
        assert front.keys is not None
        front.keys.refresh()
        assert (await _error(front.stub.Generate(_request(), metadata=_as("acme")))).code() is CODE.UNAUTHENTICATED
        new = front.stub.Generate(_request(), metadata=(("authorization", f"Bearer {fresh}"),))
        assert [part async for part in new][-1].finish.usage.num_completion_tokens == 8
        while await call.read() is not grpc.aio.EOF:
            pass
        assert await call.code() is CODE.OK
