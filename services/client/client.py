"""The asyncio client of `OrchestratorService`.

Owns the way of a request from one orchestrator to the next. Which failures it goes on after, and when, is up to
`retry`; that the parts make one stream, to `continuity`; who is asked, to `targets`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import NoReturn

import grpc
from trivium.v1 import orchestrator_pb2 as pb

from services.client.completion import Completion
from services.client.continuity import BrokenStream, Continuity
from services.client.errors import CallFailed, GenerationFailed
from services.client.retry import Retries
from services.client.targets import OpenChannel, Target, Targets
from services.common.serving.channels import open_channel as default_open_channel

logger = logging.getLogger(__name__)

OnRetry = Callable[[CallFailed], None]
"""Called with why a stream pauses, before it is gone on with."""

_INFO_TIMEOUT_S = 5.0
_CODE = grpc.StatusCode


class AsyncClient:
    """Asks orchestrators, and goes on at another one where one is lost. An async context manager.

    Args:
        targets: "host:port", several of them, or a name that stands for several, such as "dns:///orchestrators:8000".
        timeout_s: Seconds that an answer may take, from the request to its last message, whatever happens meanwhile.
        retry_s: Seconds of failures without any progress after which a request is given up.
        keepalive_s: Seconds between pings on a quiet connection: an orchestrator that is frozen is found within two.
        open_channel: Opens the channels.
        api_key: Sent with every call that brings none of its own.
        draw: Where the jitter of the pauses comes from.
    """

    def __init__(
        self,
        targets: Sequence[str] | str,
        *,
        timeout_s: float = 600.0,
        retry_s: float = 30.0,
        keepalive_s: float = 2.0,
        open_channel: OpenChannel = default_open_channel,
        api_key: str | None = None,
        draw: random.Random | None = None,
    ) -> None:
        names = [targets] if isinstance(targets, str) else list(targets)
        if not names:
            raise ValueError("targets: there is none")
        self._targets = Targets(names, open_channel, keepalive_s)
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._api_key = api_key
        self._draw = draw or random.Random()
        self._streams: dict[tuple[str | None, str], set[_Stream]] = {}
        self._has_reached = False

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all calls and closes all connections."""
        await self._targets.close()

    async def generate(
        self,
        request: pb.GenerateRequest,
        *,
        timeout_s: float | None = None,
        on_retry: OnRetry | None = None,
        api_key: str | None = None,
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Streams an answer: without a gap, and no token twice.

        Args:
            request: What to generate; it isn't changed. One without a request_id gets one.
            timeout_s: Seconds that the answer may take; the client's if None.
            on_retry: Told of each pause, once however many attempts it takes. May not block.
            api_key: Sent with all attempts; the client's if None.

        Yields:
            The messages as they arrive; the last one carries `finish`, whose usage is that of the whole answer.
            Leaving the generator (`contextlib.aclosing`) ends the request on its orchestrator.

        Raises:
            GenerationFailed: The request is refused, nobody could go on with it, or it took too long.
        """
        sent = pb.GenerateRequest()
        sent.CopyFrom(request)
        sent.request_id = request.request_id or uuid.uuid4().hex
        stream = _Stream(sent, self._retries(sent), self._timeout_s if timeout_s is None else timeout_s)
        stream.api_key = api_key or self._api_key
        # Closed when this is: a generator that is only let go of would end its request some time later.
        with self._known(stream):
            async with contextlib.aclosing(self._stream(stream, on_retry or (lambda _failure: None))) as responses:
                async for response in responses:
                    yield response

    async def complete(
        self,
        request: pb.GenerateRequest,
        *,
        timeout_s: float | None = None,
        on_retry: OnRetry | None = None,
        api_key: str | None = None,
    ) -> Completion:
        """Waits for a whole answer.

        Raises:
            GenerationFailed: As `generate`.
        """
        completion = Completion()
        generating = self.generate(request, timeout_s=timeout_s, on_retry=on_retry, api_key=api_key)
        async with contextlib.aclosing(generating) as responses:
            async for response in responses:
                completion.add(response)
        return completion

    async def cancel(self, request_id: str, *, api_key: str | None = None) -> bool:
        """Ends a request, whoever sent it, on whichever orchestrator it runs. Returns False if none knew it.

        Args:
            request_id: Its name; with keys, of a request of the same tenant.
            api_key: Sent with the calls; the client's if None.
        """
        key = api_key or self._api_key
        streams = list(self._streams.get((key, request_id), ()))
        for stream in streams:
            stream.cancel()
        request = pb.CancelRequest(request_id=request_id)
        async with contextlib.AsyncExitStack() as stack:
            replies = await asyncio.gather(
                *(
                    target.stub.Cancel(request, timeout=_INFO_TIMEOUT_S, metadata=_metadata(key))
                    for target in await self._targets.every_one(stack)
                ),
                return_exceptions=True,
            )
        return bool(streams) or any(isinstance(reply, pb.CancelResponse) and reply.cancelled for reply in replies)

    async def server_info(self, *, api_key: str | None = None) -> pb.OrchestratorServiceGetServerInfoResponse:
        """Asks an orchestrator what is served.

        Args:
            api_key: Sent with the call; the client's if None.

        Raises:
            CallFailed: None answers.
        """
        try:
            async with asyncio.timeout(_INFO_TIMEOUT_S):
                target = await self._targets.pick()
                if target is None:
                    raise self._nobody_listens()
                return await target.stub.GetServerInfo(
                    pb.OrchestratorServiceGetServerInfoRequest(),
                    timeout=_INFO_TIMEOUT_S,
                    metadata=_metadata(api_key or self._api_key),
                )
        except TimeoutError:
            raise CallFailed(_CODE.DEADLINE_EXCEEDED, f"no answer within {_INFO_TIMEOUT_S:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise CallFailed.of(error) from error

    # --- one request

    def _retries(self, request: pb.GenerateRequest) -> Retries:
        return Retries(
            self._retry_s,
            self._draw,
            has_begun=request.HasField("resume_from"),
            loss_policy=request.llm_loss_policy,
        )

    @contextlib.contextmanager
    def _known(self, stream: _Stream) -> Iterator[None]:
        """Keeps it findable for `cancel`."""
        name = (stream.api_key, stream.request.request_id)
        self._streams.setdefault(name, set()).add(stream)
        try:
            yield
        finally:
            self._streams[name].discard(stream)
            if not self._streams[name]:
                del self._streams[name]

    async def _stream(self, stream: _Stream, on_retry: OnRetry) -> AsyncGenerator[pb.GenerateResponse, None]:
        loop = asyncio.get_running_loop()
        target: Target | None = None
        while True:
            target = await self._reach(stream, avoided=target)
            began = loop.time()
            if target is None:
                failure = self._nobody_listens()
                if not self._has_reached:
                    stream.fail(failure)
            else:
                try:
                    async with contextlib.aclosing(self._attempt(stream, target)) as responses:
                        async for response in responses:
                            yield response
                    return
                except grpc.aio.AioRpcError as error:
                    if stream.continuity.finished:
                        # The status was lost, which would have told nothing new.
                        return
                    failure = CallFailed.of(error)
                except BrokenStream as error:
                    failure = CallFailed(_CODE.INTERNAL, f"{target.name}: {error}")
            if loop.time() >= stream.deadline or failure.code is _CODE.DEADLINE_EXCEEDED:
                stream.fail(stream.too_late())
            pause_s = stream.retries.pause_after(failure, began=began, now=loop.time())
            if pause_s is None:
                stream.fail(failure)
            stream.last_failure = failure
            logger.info(
                "request %s: %s; goes on after %d tokens", stream.request.request_id, failure, stream.num_tokens
            )
            if not stream.pauses:
                on_retry(failure)
            stream.pauses = True
            await stream.pause(pause_s)

    async def _reach(self, stream: _Stream, avoided: Target | None) -> Target | None:
        """Finds a target for the next attempt."""
        try:
            async with asyncio.timeout_at(stream.deadline):
                target = await self._targets.pick(avoided)
        except TimeoutError:
            stream.fail(stream.too_late())
        stream.check()
        self._has_reached = self._has_reached or target is not None
        return target

    async def _attempt(self, stream: _Stream, target: Target) -> AsyncGenerator[pb.GenerateResponse, None]:
        remaining_s = max(stream.deadline - asyncio.get_running_loop().time(), 0.0)
        call = target.stub.Generate(stream.next_request(), timeout=remaining_s, metadata=_metadata(stream.api_key))
        stream.call = call
        try:
            async for response in call:
                yield stream.take(response)
            stream.continuity.end()
        except asyncio.CancelledError:
            stream.check()
            if (task := asyncio.current_task()) is not None and not task.cancelling():
                stream.fail(CallFailed(_CODE.CANCELLED, "the client was closed"))
            raise
        finally:
            stream.call = None
            call.cancel()

    def _nobody_listens(self) -> CallFailed:
        return CallFailed(
            _CODE.UNAVAILABLE,
            f"nobody listens at {self._targets}: is the address right, and does an orchestrator run there?",
            kind="Unreachable",
        )


def _metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


class _Stream:
    """One request on its way over orchestrators.

    Args:
        request: As it is sent first.
        retries: What it may still try.
        timeout_s: Seconds that all of it may take.
    """

    def __init__(self, request: pb.GenerateRequest, retries: Retries, timeout_s: float) -> None:
        self.request = request
        self.retries = retries
        self.deadline = asyncio.get_running_loop().time() + timeout_s
        self.continuity = Continuity(request)
        self.api_key: str | None = None
        self.call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse] | None = None
        self.last_failure: CallFailed | None = None
        self.pauses = False
        """Whether nothing came since an attempt failed."""
        self._timeout_s = timeout_s
        self._has_been_sent = False
        self._cancelled = asyncio.Event()

    @property
    def num_tokens(self) -> int:
        """Completion tokens that the caller has."""
        return self.continuity.num_tokens

    def next_request(self) -> pb.GenerateRequest:
        """What the next attempt sends."""
        if self._has_been_sent:
            self.request.resume_from = self.num_tokens
            if self.continuity.used_rule is not None:
                self.request.began_with.CopyFrom(self.continuity.used_rule)
        self._has_been_sent = True
        return self.request

    def take(self, response: pb.GenerateResponse) -> pb.GenerateResponse:
        """Appends a message, as `Continuity.take`."""
        self.pauses = False
        if response.token_ids:
            self.retries.progressed()
        return self.continuity.take(response)

    def cancel(self) -> None:
        """Ends it, whether it streams or pauses."""
        self._cancelled.set()
        if self.call is not None:
            self.call.cancel()

    def check(self) -> None:
        """Raises if it was cancelled by `cancel`."""
        if self._cancelled.is_set():
            self.fail(CallFailed(_CODE.CANCELLED, f"request {self.request.request_id!r} was cancelled"))

    async def pause(self, seconds: float) -> None:
        """Waits before the next attempt."""
        until = min(asyncio.get_running_loop().time() + seconds, self.deadline)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._cancelled.wait()
        self.check()

    def too_late(self) -> CallFailed:
        """What it fails with once its time is over."""
        message = f"the answer isn't complete after {self._timeout_s:g} s"
        if self.last_failure is not None:
            message += f"; it was interrupted by {self.last_failure}"
        return CallFailed(_CODE.DEADLINE_EXCEEDED, message)

    def fail(self, failure: CallFailed) -> NoReturn:
        """Raises what the caller is told."""
        raise GenerationFailed(
            failure.code,
            failure.message,
            num_tokens=self.num_tokens,
            retry_after_s=failure.retry_after_s,
            kind=failure.kind,
        ) from failure
