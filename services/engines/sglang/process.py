"""The engine's end of the process that runs SGLang.

Owns that process's life and the requests' ids. Knows requests, not sequences. Leaves no process behind: the host and
all that SGLang starts share a process group, which is killed once the host has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Collection, Sequence
from dataclasses import asdict

from services.common import guarded
from services.common.errors import ModelNotReady
from services.engines.base import EngineOptions, ModelInfo, ModelLoadError, SamplingParams
from services.engines.sglang.chunks import CACHE_CLEARED
from services.engines.sglang.frames import Header, pack_frame, pack_ids, read_frame
from services.engines.sglang.server_args import make_environment

_SHUTDOWN_S = 20.0
_STDERR = 2

logger = logging.getLogger(__name__)


class SglangProcess:
    """SGLang in a process of its own.

    Args:
        options: How to set it up.
        has_features: Whether each token comes with router features.
    """

    def __init__(self, options: EngineOptions, *, has_features: bool) -> None:
        self._options = options
        self._has_features = has_features
        self._process: Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._num_requests = 0

    async def start(self) -> ModelInfo:
        """Starts the process and waits until SGLang serves.

        Raises:
            ModelLoadError: It can't run the model; the message names the file or field.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                # While it loads a model it doesn't look at the socket, and may hold a GPU's memory for long.
                *guarded.command([sys.executable, "-m", "services.engines.sglang.host", str(theirs.fileno())]),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=_STDERR,
                env=os.environ | make_environment(self._options),
                start_new_session=True,
            )
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._send({"options": asdict(self._options), "has_features": self._has_features})
        try:
            reply, _ = await read_frame(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            process = self._process
            await self.stop()
            raise ModelLoadError(
                f"model {self._options.model!r}: SGLang ended with {process.returncode} while it loaded the model; "
                "its log says why"
            ) from error
        if "failed" in reply:
            await self.stop()
            raise ModelLoadError(reply["failed"])
        info = reply["ready"]
        return ModelInfo(**info | {"eos_token_ids": tuple(info["eos_token_ids"])})

    async def stop(self) -> None:
        """Ends the process and everything that SGLang started."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
        if self._process is None:
            return
        try:
            await asyncio.wait_for(self._process.wait(), _SHUTDOWN_S)
        except TimeoutError:
            logger.warning("SGLang did not shut down within %s s and is killed", _SHUTDOWN_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._process = None

    def submit(
        self,
        token_ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: SamplingParams,
        stop_token_ids: Collection[int] = (),
        choices_from: int = -1,
    ) -> str:
        """Starts a request.

        Args:
            token_ids: The whole prefix.
            max_new_tokens: Where it ends at the latest.
            sampling: How tokens are chosen.
            stop_token_ids: It ends after one of these.
            choices_from: Position, at least 1, from which greedy choices within the prefix are wanted; -1 for none.

        Returns:
            The id of the request. All ids are of one length, since SGLang aborts by prefix.
        """
        self._num_requests += 1
        request_id = f"{self._num_requests:016x}"
        header = {
            "op": "submit",
            "request_id": request_id,
            "max_new_tokens": max_new_tokens,
            "stop_token_ids": sorted(stop_token_ids),
            "sampling": asdict(sampling),
            "choices_from": choices_from,
        }
        self._send(header, pack_ids(token_ids))
        return request_id

    def abort(self, request_id: str) -> None:
        """Ends a request early. Chunks that are on their way still arrive."""
        self._send({"op": "abort", "request_id": request_id})

    def clear_cache(self) -> None:
        """Empties the prefix cache once nothing runs. A chunk of the request `CACHE_CLEARED` answers."""
        self._send({"op": "clear_cache", "request_id": CACHE_CLEARED})

    async def next_message(self) -> tuple[Header, bytes]:
        """Waits for what SGLang has to say; `chunks.unpack_chunk` reads it.

        Raises:
            ModelNotReady: The process has ended.
            ValueError: What it wrote is no message.
        """
        if self._reader is None:
            raise ModelNotReady("the engine has not been started")
        try:
            return await read_frame(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ModelNotReady("SGLang has ended") from error

    def _send(self, header: Header, body: bytes = b"") -> None:
        if self._writer is None:
            raise ModelNotReady("the engine has not been started")
        self._writer.write(pack_frame(header, body))
