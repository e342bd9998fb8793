"""Relays TCP connections: `python3 relay.py LISTEN_PORT HOST:PORT`.

Inside a cluster, a Service that is reached through it behaves as it does for a client there: every connection may go
to another pod, and none to a pod that is about to end. Where there is no cluster, it stands for the Service.
Imports nothing but the standard library, since a pod runs its text.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator


class Relay:
    """Leads connections on.

    Args:
        target: "host:port", to which new connections lead from now on.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.num_open: Counter[str] = Counter()
        """Connections that are open, by what they lead to."""
        self.address = ""
        """Where it listens, "host:port"."""
        self._flows = asyncio.Event()
        self._flows.set()

    def freeze(self) -> None:
        """Turns into a black hole: connections stay, and nothing comes through."""
        self._flows.clear()

    def thaw(self) -> None:
        """Lets everything through again, what was held up included."""
        self._flows.set()

    @contextlib.asynccontextmanager
    async def listening(
        self, host: str, port: int, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[asyncio.Server]:
        """Takes connections while the context is open, with TLS if given; ends them with it."""
        tasks: set[asyncio.Task[None]] = set()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # One that asyncio made would report its end as an error.
            task = asyncio.create_task(self._relay(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async with await asyncio.start_server(take, host, port, ssl=tls) as server:
            host, port = server.sockets[0].getsockname()
            self.address = f"{host}:{port}"
            try:
                yield server
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.target
        host, _, port = target.rpartition(":")
        self.num_open[target] += 1
        # Where nobody listens, the client finds its connection closed.
        with contextlib.suppress(OSError), contextlib.closing(writer):
            try:
                to_reader, to_writer = await asyncio.open_connection(host, int(port))
                with contextlib.closing(to_writer):
                    await asyncio.gather(self._copy(reader, to_writer), self._copy(to_reader, writer))
            finally:
                self.num_open[target] -= 1

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


async def _main(port: int, target: str) -> None:
    async with Relay(target).listening("0.0.0.0", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2]))
