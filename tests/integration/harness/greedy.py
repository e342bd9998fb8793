"""A tenant's callers that ask again and again, from a process of its own, which is this module.

So their own work doesn't slow down who measures. They go on until stdin ends, and print how many calls were refused.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from services.client import AsyncClient, CallFailed, Options, text_request

REQUEST = text_request("Ann starts with 24 stones.", Options(max_new_tokens=16))
_KEY = "GREEDY_API_KEY"


class Refusals:
    """Calls that were refused in the end; known once the callers have stopped."""

    number = 0


@asynccontextmanager
async def callers(address: str, key: str, number: int) -> AsyncIterator[Refusals]:
    """So many callers ask for as long as the context is open."""
    refusals = Refusals()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, address, str(number),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={**os.environ, _KEY: key},
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    try:
        # It asks by now.
        assert (await process.stdout.readline()).strip() == b"asking"
        yield refusals
        process.stdin.close()
        refusals.number = int(await process.stdout.readline())
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _ask(address: str, number: int) -> int:
    stopping, num_refused = asyncio.Event(), 0
    asyncio.get_running_loop().run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: stopping.set())

    async def caller(client: AsyncClient) -> None:
        nonlocal num_refused
        while not stopping.is_set():
            try:
                await client.complete(REQUEST)
            except CallFailed as failure:
                if (failure.code, failure.retry_after_s) != (grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0):
                    raise
                num_refused += 1
                await asyncio.sleep(0.1)

    async with AsyncClient(address, api_key=os.environ[_KEY], retry_s=0.0) as client:
        asking = [asyncio.create_task(caller(client)) for _ in range(number)]
        await asyncio.sleep(1.0)
        sys.stdout.write("asking\n")
        sys.stdout.flush()
        await asyncio.gather(*asking)
    return num_refused


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("number", type=int)
    arguments = parser.parse_args()
    sys.stdout.write(f"{asyncio.run(_ask(arguments.address, arguments.number))}\n")
