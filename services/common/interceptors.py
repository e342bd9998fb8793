"""Guards every call of a server: refuses it while the process isn't ready, and turns raised errors into statuses.

Owns the mapping of exceptions to gRPC statuses, for unary and streaming calls alike. Health and reflection pass
untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.common.errors import CapacityExceeded, TriviumError
from services.common.lifecycle import Lifecycle

logger = logging.getLogger(__name__)

_Handler = Callable[[Any, Any], Any]
_Call = Callable[[Any, Any], Awaitable[Any]]

ALWAYS_TAKEN = frozenset({"GetServerInfo", "Cancel"})
"""Methods that are answered for as long as the server listens: they end work or describe it, and start none."""


class CallGuard(grpc.aio.ServerInterceptor):
    """Guards the calls of one service and counts those that run.

    Args:
        lifecycle: Tells whether new calls are taken.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self.num_active_calls = 0
        self.idle = asyncio.Event()
        """Set while no call runs."""
        self.idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler of a call of the guarded service."""
        handler = await continuation(handler_call_details)
        service_name, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or service_name != self._lifecycle.service_name:
            return handler
        return _rewrap(handler, lambda inner: self._guard(method, inner))

    def _guard(self, method: str, inner: _Call) -> _Call:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self.num_active_calls += 1
            self.idle.clear()
            try:
                refusal = self._lifecycle.refusal
                if refusal and not (self._lifecycle.draining and method in ALWAYS_TAKEN):
                    raise refusal
                return await inner(request, context)
            except TriviumError as error:
                logger.debug("%s ended with %s: %s", method, error.code.name, error)
                await context.abort(error.code, str(error), _trailing_metadata(error))
            except (grpc.aio.AbortError, grpc.aio.UsageError):
                # The call has its status already, or its client is gone.
                raise
            except Exception:
                logger.exception("%s failed", method)
                await context.abort(grpc.StatusCode.INTERNAL, "internal error")
            finally:
                self.num_active_calls -= 1
                if not self.num_active_calls:
                    self.idle.set()

        return call


def _trailing_metadata(error: TriviumError) -> tuple[tuple[str, str | bytes], ...]:
    """Tells when to try again: as `google.rpc.RetryInfo` for clients, as a header for gRPC's own retry policy."""
    if not isinstance(error, CapacityExceeded):
        return ()
    retry_info = error_details_pb2.RetryInfo()
    retry_info.retry_delay.FromMilliseconds(milliseconds := int(error.retry_after_s * 1000))
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    status.details.add().Pack(retry_info)
    metadata: tuple[tuple[str, bytes], ...] = rpc_status.to_status(status).trailing_metadata
    return (*metadata, ("grpc-retry-pushback-ms", str(milliseconds)))


def _rewrap(
    handler: grpc.RpcMethodHandler[Any, Any], guard: Callable[[_Call], _Call]
) -> grpc.RpcMethodHandler[Any, Any]:
    # One of the four is set; the type stubs know only their synchronous shapes.
    unguarded: Any = handler.stream_stream or handler.unary_stream or handler.stream_unary or handler.unary_unary
    guarded: Any = guard(_writing(unguarded) if handler.response_streaming else unguarded)
    create = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return create(guarded, handler.request_deserializer, handler.response_serializer)


def _writing(handler: _Handler) -> _Call:
    """Gives both kinds of streaming handlers, generators and coroutines that write, the shape of the latter."""
    if not inspect.isasyncgenfunction(handler):
        return handler

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        responses: AsyncGenerator[Any, None] = handler(request, context)
        async with contextlib.aclosing(responses):
            async for response in responses:
                await context.write(response)

    return call
