"""Relays TCP connections, from inside the cluster: `python3 relay.py LISTEN_PORT HOST PORT`.

A Service that is reached through it behaves as it does for a client inside: every connection may go to another pod,
and none to a pod that is about to end. Imports nothing but the standard library, since a pod runs its text.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(port: int, host: str, to_port: int) -> None:
    """Relays every connection to `port` until it is stopped."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_connection(host, to_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))

    async with await asyncio.start_server(relay, "0.0.0.0", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
