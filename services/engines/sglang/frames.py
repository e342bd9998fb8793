"""Messages between an engine and the process that runs SGLang for it.

Owns the framing on the socket that joins them: the lengths of header and body, a JSON header, a binary body.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_LENGTHS = struct.Struct("<II")
_MAX_LEN = 2**28
"""Longest header or body in bytes; far above what a context of a million tokens needs."""

Header = dict[str, Any]


def pack_frame(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    """Puts a message into bytes."""
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(body)) + text + body


async def read_frame(reader: asyncio.StreamReader) -> tuple[Header, bytes]:
    """Reads one message.

    Raises:
        asyncio.IncompleteReadError: The other side closed the socket.
        ValueError: These bytes are no message; what follows can't be read either.
    """
    header_len, body_len = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    if max(header_len, body_len) > _MAX_LEN:
        raise ValueError(f"a frame of {header_len} and {body_len} bytes")
    header: Header = json.loads(await reader.readexactly(header_len))
    if not isinstance(header, dict):
        raise ValueError(f"a header that is no object: {header!r:.64}")
    return header, await reader.readexactly(body_len)


def pack_ids(token_ids: Sequence[int]) -> bytes:
    """Packs token ids as little-endian int32."""
    return np.asarray(token_ids, dtype="<i4").tobytes()


def unpack_ids(data: bytes) -> list[int]:
    """Undoes `pack_ids`."""
    ids: list[int] = np.frombuffer(data, dtype="<i4").tolist()
    return ids
