"""The cheapest reader of streamed completions that there is: bytes from a socket, looked at once they are all there.

Owns what it takes to find the end of a response that is sent in chunks. It is for measuring servers, and trusts them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

_READ_BYTES = 64 * 1024
_HEAD = (
    "POST /v1/completions HTTP/1.1\r\nHost: bench\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
)
_ACCEPTED = b"HTTP/1.1 200 "
_TOKEN = b'"text":'
# Text in JSON has no line breaks of its own.
_EVENT = b"\ndata: {"
_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer that was read to its end.

    Args:
        num_tokens: That it has.
        num_messages: That they came in.
        first_token_s: Seconds from the request to the first of them.
    """

    num_tokens: int
    num_messages: int
    first_token_s: float


class Connection:
    """A connection that takes one request after the other, as those of OpenAI's clients do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, address: str) -> AsyncIterator[Connection]:
        """Connects to "host:port" for the length of a `with` block."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    async def complete(self, prompt: Sequence[int], *, max_tokens: int) -> Reading:
        """Has a prompt gone on with greedily, streamed.

        Args:
            prompt: Its token ids.
            max_tokens: Tokens to write at most.

        Raises:
            ValueError: It is refused; what with is told.
            ConnectionError: The connection ended before the answer.
        """
        asked = {"prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0, "stream": True}
        body = json.dumps(asked | {"stream_options": {"include_usage": True}})
        start, first_token_s, parts, tail = time.perf_counter(), 0.0, list[bytes](), b""
        self._writer.write((_HEAD.format(length=len(body)) + body).encode())
        while not tail.endswith(_END):
            part = await self._reader.read(_READ_BYTES)
            if not part:
                raise ConnectionError("the connection ended before the answer")
            if not parts and not part.startswith(_ACCEPTED):
                raise ValueError(f"no answer but {part[:300]!r}")
            if not first_token_s and _TOKEN in part:
                first_token_s = time.perf_counter() - start
            parts.append(part)
            tail = (tail + part)[-len(_END) :]
        return _reading(b"".join(parts), first_token_s)


def _reading(response: bytes, first_token_s: float) -> Reading:
    # The last event is the usage.
    last = response[response.rindex(_EVENT) + len(_EVENT) - 1 :].partition(b"\n")[0]
    return Reading(json.loads(last)["usage"]["completion_tokens"], response.count(_EVENT) - 1, first_token_s)
