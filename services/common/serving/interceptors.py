"""Guards every call of a server: refuses it while it isn't taken, and turns raised errors into statuses.

Owns the mapping of exceptions to gRPC statuses, for unary and streaming calls alike, and the decoding of requests:
what can't be decoded is a bad request like any other. Health and reflection are never refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.common.errors import KIND_KEY, CapacityExceeded, DeadlineExceeded, InvalidRequest, TriviumError
from services.common.serving.call_limits import CallLimits, MessageReader
from services.common.serving.lifecycle import Lifecycle

logger = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]
_Decode = Callable[[bytes], Any]

ALWAYS_TAKEN = frozenset({"GetServerInfo", "Cancel"})
"""Methods that are answered for as long as the server listens: they end work or describe it, and start none."""


class Door(Protocol):
    """Who may call, by what comes before a call's message."""

    def enter(
        self, method: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> contextlib.AbstractContextManager[None]:
        """Is a context for as long as the call runs; what it sets in context variables, the call sees.

        Raises:
            TriviumError: The call isn't taken.
        """


class _Failure(NamedTuple):
    """What a call ends with."""

    code: grpc.StatusCode
    text: str
    metadata: tuple[tuple[str, str | bytes], ...] = ()


class CallGuard(grpc.aio.ServerInterceptor):
    """Guards the calls of one service and counts those that run.

    Args:
        lifecycle: Tells whether new calls are taken.
        limits: What calls may take.
        door: Who may call; anybody if None.
    """

    def __init__(self, lifecycle: Lifecycle, limits: CallLimits | None = None, door: Door | None = None) -> None:
        self._lifecycle = lifecycle
        self._door = door
        self._limits = limits or CallLimits()
        self._reader = MessageReader()
        self._num_limited_calls = 0
        self.num_active_calls = 0
        self.idle = asyncio.Event()
        """Set while no call runs."""
        self.idle.set()

    @property
    def has_door(self) -> bool:
        """Whether not everybody may call."""
        return self._door is not None

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler of a call.

        On the wire, a call with one message is a stream of one: all handlers become streams of undecoded messages. So
        a call can be refused before its message is received, and nothing of a message is kept once it is decoded.
        """
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        service_name, _, method = handler_call_details.method.lstrip("/").partition("/")
        is_own = service_name == self._lifecycle.service_name
        guard = self._guarded(method, handler_call_details) if is_own else contextlib.nullcontext

        async def call(messages: AsyncIterator[bytes], context: _Context) -> None:
            failure = await run(messages, context)
            # Ended where no exception is handled: what ends a call is kept with it, and would keep that exception,
            # the frames that it came through, and with them the request.
            if failure:
                await _abort(context, failure)

        async def run(messages: AsyncIterator[bytes], context: _Context) -> _Failure | None:
            try:
                with guard():
                    await self._answer(handler, messages, context)
            except TriviumError as error:
                logger.debug("%s ended with %s: %s", method, error.code.name, error)
                return _Failure(error.code, str(error), _trailing_metadata(error))
            except (grpc.aio.AbortError, grpc.aio.UsageError):
                # The call has its status already, or its client is gone.
                raise
            except grpc.aio.InternalError as error:
                # The call was over before its answer was written.
                logger.debug("%s can't be answered any more: %s", method, error)
            except Exception:
                logger.exception("%s failed", method)
                return _Failure(grpc.StatusCode.INTERNAL, "internal error", ((KIND_KEY, TriviumError.__name__),))
            return None

        return grpc.stream_stream_rpc_method_handler(call, None, handler.response_serializer)

    def _guarded(
        self, method: str, details: grpc.HandlerCallDetails
    ) -> Callable[[], contextlib.AbstractContextManager[None]]:
        @contextlib.contextmanager
        def guard() -> Iterator[None]:
            # First of all: whoever isn't let in must not take the place of another.
            with self._door.enter(method, details.invocation_metadata) if self._door else contextlib.nullcontext():
                is_limited = method not in ALWAYS_TAKEN
                self._count(1, is_limited)
                try:
                    self._refuse(is_limited)
                    yield
                finally:
                    self._count(-1, is_limited)

        return guard

    def _count(self, number: int, is_limited: bool) -> None:
        self.num_active_calls += number
        self._num_limited_calls += number * is_limited
        if self.num_active_calls:
            self.idle.clear()
        else:
            self.idle.set()

    def _refuse(self, is_limited: bool) -> None:
        """Raises where a new call, which is counted already, isn't taken."""
        refusal = self._lifecycle.refusal
        if refusal and (is_limited or not self._lifecycle.draining):
            raise refusal
        if is_limited and 0 < self._limits.max_calls < self._num_limited_calls:
            self._lifecycle.num_calls_refused += 1
            raise CapacityExceeded(f"max_calls: {self._limits.max_calls} calls are open already")

    async def _answer(
        self, handler: grpc.RpcMethodHandler[Any, Any], messages: AsyncIterator[bytes], context: _Context
    ) -> None:
        # One of the four is set; the type stubs know only their synchronous shapes.
        serve: Any = handler.stream_stream or handler.unary_stream or handler.stream_unary or handler.unary_unary
        decode: Any = handler.request_deserializer
        if handler.request_streaming:
            await _write(serve(_decoded(messages, decode), context), handler, context)
            return
        deadline_s = self._limits.default_deadline_s
        has_deadline = not deadline_s or context.time_remaining() is not None
        try:
            async with asyncio.timeout(None if has_deadline else deadline_s) as deadline:
                # No name for the request here, which would keep it for as long as the call runs.
                await _write(serve(_decode(await self._reader.read(context), decode), context), handler, context)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise DeadlineExceeded(
                f"default_deadline_s: the call named no deadline, and took longer than {deadline_s:g} s"
            ) from None


async def _write(answer: Any, handler: grpc.RpcMethodHandler[Any, Any], context: _Context) -> None:
    """Writes what a handler answers: a generator, a coroutine that writes by itself, or one that returns."""
    if inspect.isasyncgen(answer):
        async with contextlib.aclosing(answer):
            async for response in answer:
                await context.write(response)
    elif handler.response_streaming:
        await answer
    else:
        await context.write(await answer)


async def _decoded(messages: AsyncIterator[bytes], decode: _Decode) -> AsyncIterator[Any]:
    async for message in messages:
        yield _decode(message, decode)


def _decode(message: bytes, decode: _Decode) -> Any:
    try:
        return decode(message)
    except DecodeError:
        raise InvalidRequest(f"the request message of {len(message)} bytes can't be decoded") from None


async def _abort(context: _Context, failure: _Failure) -> None:
    try:
        await context.abort(failure.code, failure.text, failure.metadata)
    except grpc.aio.AbortError as error:
        # The call keeps it, and raises it again once its handler is done. These frames have the call.
        error.__traceback__ = None
    except grpc.aio.InternalError as error:
        # It was over already, as after a message beyond the limit: then its status stands.
        logger.debug("a call can't be ended any more: %s", error)


def _trailing_metadata(error: TriviumError) -> tuple[tuple[str, str | bytes], ...]:
    """Tells the kind, and when to try again: as `google.rpc.RetryInfo`, and as a header for gRPC's own retries."""
    kind = (KIND_KEY, type(error).__name__)
    if not isinstance(error, CapacityExceeded):
        return (kind,)
    retry_info = error_details_pb2.RetryInfo()
    retry_info.retry_delay.FromMilliseconds(milliseconds := int(error.retry_after_s * 1000))
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    status.details.add().Pack(retry_info)
    metadata: tuple[tuple[str, bytes], ...] = rpc_status.to_status(status).trailing_metadata
    return (*metadata, kind, ("grpc-retry-pushback-ms", str(milliseconds)))
