"""The process that runs SGLang for one engine: `python -m services.engines.sglang.host FD`.

Owns the `sglang.Engine` and the requests that run on it. Knows requests, not sequences. The engine at the other end
of the socket owns this process; when the socket closes, everything here ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from services.engines.base import EngineOptions, ModelInfo, ModelLoadError
from services.engines.sglang.chunks import PROGRESS, pack_news, pack_output, pack_trouble
from services.engines.sglang.frames import Header, pack_frame, read_frame, unpack_ids
from services.engines.sglang.rows import REQUEST_KEY
from services.engines.sglang.server_args import make_server_args
from services.engines.sglang.troubles import Trouble, trouble_of_exception

if TYPE_CHECKING:
    import sglang

logger = logging.getLogger(__name__)

_IDLE_TIMEOUT_S = 60.0
_PROGRESS_INTERVAL_S = 0.2


class Host:
    """Serves one engine.

    Whatever one request raises is told to the engine as that request's trouble. Whatever the host itself raises ends
    `serve`, and with it the process; the engine sees the socket close.

    Args:
        engine: SGLang.
        has_features: Whether each token comes with router features.
        processor: What marks requests as Trivium's, in SGLang's own encoding.
        writer: Towards the engine.
    """

    def __init__(
        self, engine: sglang.Engine, has_features: bool, processor: str, writer: asyncio.StreamWriter
    ) -> None:
        self._engine = engine
        self._has_features = has_features
        self._writer = writer
        self._processor = processor
        self._requests: dict[str, asyncio.Task[None]] = {}
        self._aborted: set[str] = set()
        self._failed: list[tuple[str, BaseException]] = []
        self._outbox = bytearray()
        self._has_news = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Carries out commands until the socket closes.

        Raises:
            ExceptionGroup: The host is broken. What a request raises isn't among it.
        """
        async with asyncio.TaskGroup() as tasks:
            helpers = [tasks.create_task(self._write()), tasks.create_task(self._watch_progress())]
            await self._obey(reader)
            for helper in helpers:
                helper.cancel()

    async def _obey(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                command, body = await read_frame(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            request_id = command["request_id"]
            if command["op"] == "abort":
                self._abort(request_id)
            elif command["op"] == "clear_cache":
                self._begin(request_id, self._clear_cache(request_id))
            else:
                self._begin(request_id, self._run(request_id, command, unpack_ids(body)))

    def _begin(self, request_id: str, work: Coroutine[Any, Any, None]) -> None:
        self._requests[request_id] = task = asyncio.create_task(work)
        task.add_done_callback(partial(self._ended, request_id))

    def _ended(self, request_id: str, task: asyncio.Task[None]) -> None:
        del self._requests[request_id]
        self._aborted.discard(request_id)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed.append((request_id, error))
            self._has_news.set()

    def _abort(self, request_id: str) -> None:
        if request_id in self._requests:
            self._aborted.add(request_id)
            self._engine.tokenizer_manager.abort_request(request_id)

    async def _run(self, request_id: str, command: Header, token_ids: list[int]) -> None:
        """Runs one request and sends its chunks; the last one is marked."""
        if request_id in self._aborted:
            # SGLang doesn't know it yet, so it couldn't be told.
            return
        outputs = await self._engine.async_generate(**self._arguments(request_id, command, token_ids))
        # Closed at once if an output can't be packed: SGLang then ends the request.
        async with aclosing(outputs):
            async for output in outputs:
                if request_id not in self._aborted:
                    self._send(pack_output(request_id, output))

    async def _clear_cache(self, request_id: str) -> None:
        """Answers when the cache is empty; requests that were just aborted are waited for."""
        outcome = await self._engine.tokenizer_manager.flush_cache(timeout_s=_IDLE_TIMEOUT_S)
        if outcome.success:
            self._send(pack_news(request_id))
        else:
            self._send(pack_trouble(request_id, Trouble.PASSES, f"it still ran requests after {_IDLE_TIMEOUT_S} s"))

    async def _watch_progress(self) -> None:
        """Tells the engine now and then that the scheduler gets on, for as long as it does.

        The scheduler of SGLang 0.5 publishes a load snapshot with each pass that prefills, and
        `TokenizerManager.get_loads`, which serves `/v1/loads`, reads it from shared memory, without the scheduler's
        help. Its counters of prefilled and used tokens move with every pass, and stand still while the scheduler is
        stuck or has nothing that it can run; its time stamp and its queue lengths don't, so they are left out. Calls
        that the scheduler answers between two passes (`get_internal_state`) would tell as much, but one pass late. A
        scheduler that is stopped while it writes keeps the reader waiting: silence, as it should be.
        """
        seen: object = None
        while True:
            await asyncio.sleep(_PROGRESS_INTERVAL_S)
            # What happened before the first request is no progress of it.
            marks = [_marks(load) for load in await self._engine.tokenizer_manager.get_loads()]
            if self._requests and seen is not None and marks != seen:
                self._send(pack_news(PROGRESS))
            seen = marks if self._requests else None

    def _arguments(self, request_id: str, command: Header, token_ids: list[int]) -> dict[str, Any]:
        arguments = {
            "rid": request_id,
            "input_ids": token_ids,
            "stream": True,
            "sampling_params": {
                "temperature": 0.0,
                "max_new_tokens": command["max_new_tokens"],
                "stop_token_ids": command["stop_token_ids"],
                "ignore_eos": not command["stop_token_ids"],
                "custom_params": {REQUEST_KEY: command["sampling"] | {"features": self._has_features}},
            },
            "custom_logit_processor": self._processor,
            "return_hidden_states": "last" if self._has_features else False,
        }
        if (start := command["choices_from"]) >= 0:
            # SGLang's first entry belongs to the token before and is empty.
            arguments |= {"return_logprob": True, "logprob_start_len": start - 1, "top_logprobs_num": 1}
        return arguments

    def _send(self, frame: bytes) -> None:
        self._outbox += frame
        self._has_news.set()

    async def _write(self) -> None:
        """Writes what there is to say. What SGLang's tasks have to say about one step is sent together."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            failed, self._failed = self._failed, []
            for request_id, error in failed:
                logger.warning("request %s failed", request_id, exc_info=error)
                self._outbox += pack_trouble(request_id, trouble_of_exception(error), repr(error))
            self._writer.write(bytes(self._outbox))
            self._outbox.clear()


def _marks(load: Any) -> tuple[Any, ...]:
    """What moves while SGLang's scheduler runs passes, and only then."""
    return (
        load.num_used_tokens,
        load.num_running_reqs,
        load.total_prefill_uncached_tokens,
        load.total_prefill_busy_us,
        load.decode_moments,
    )


def main(fd: int) -> None:
    """Runs the process: options in, `ready` or `failed` out, then requests until the socket closes."""
    with socket.socket(fileno=fd) as connection:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        reader, writer = loop.run_until_complete(asyncio.open_connection(sock=connection))
        setup, _ = loop.run_until_complete(read_frame(reader))
        options = EngineOptions(**setup["options"])
        try:
            info, engine = _start(options, setup["has_features"])
        except ModelLoadError as error:
            writer.write(pack_frame({"failed": str(error)}))
        else:
            writer.write(pack_frame({"ready": asdict(info)}))
            from services.engines.sglang.scheduler.sampler import TriviumRequest

            host = Host(engine, setup["has_features"], TriviumRequest.to_str(), writer)
            loop.run_until_complete(host.serve(reader))
            engine.shutdown()
        loop.run_until_complete(_close(writer))


async def _close(writer: asyncio.StreamWriter) -> None:
    try:
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        logger.debug("the engine closed the socket first")


def _start(options: EngineOptions, has_features: bool) -> tuple[ModelInfo, sglang.Engine]:
    # Imported here, not above: SGLang's processes import this module again when they start.
    from services.engines.sglang.model import describe

    info = describe(options)
    from sglang.srt.entrypoints.engine import Engine
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    # Token ids leave without it, and it would take as much memory and time to start as the scheduler.
    HookRegistry.register(
        f"{Engine.__module__}.Engine._launch_detokenizer_subprocesses", _launch_none, HookType.REPLACE
    )
    try:
        return info, Engine(**make_server_args(options, info.context_len, has_features))
    except (OSError, ValueError, RuntimeError, AssertionError, EOFError) as error:
        raise ModelLoadError(f"model {options.model!r}: SGLang can't run it: {error}") from error


def _launch_none(*args: object, **kwargs: object) -> tuple[list[object], list[str]]:
    return [], []


if __name__ == "__main__":
    main(int(sys.argv[1]))
