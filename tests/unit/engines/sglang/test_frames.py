from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from services.engines.sglang.frames import pack_frame, pack_ids, read_frame, unpack_ids


async def test_frames_come_back_in_order_however_the_bytes_arrive() -> None:
    reader = asyncio.StreamReader()
    data = pack_frame({"op": "submit", "n": 2**64 - 1}, pack_ids([0, 5, 150_000])) + pack_frame({"op": "abort"})
    reading = asyncio.gather(read_frame(reader), return_exceptions=False)
    for byte in data[:20]:
        reader.feed_data(bytes([byte]))
        await asyncio.sleep(0)
    reader.feed_data(data[20:])
    ((header, body),) = await reading
    assert header == {"op": "submit", "n": 2**64 - 1}
    assert unpack_ids(body) == [0, 5, 150_000]
    assert await read_frame(reader) == ({"op": "abort"}, b"")


async def test_closed_socket_ends_the_reading() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(pack_frame({"op": "abort"})[:-1])
    reader.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        await read_frame(reader)
