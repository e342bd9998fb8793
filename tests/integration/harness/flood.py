"""Sends an orchestrator far more than it can take, from a process of its own, which is this module.

Owns what is sent and how its end is counted. Prints a JSON object: how many requests ended with which status.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter

import grpc
from trivium.v1 import orchestrator_pb2, orchestrator_pb2_grpc

from services.common.serving.channels import open_channel

MIB = 2**20
_NUM_CHANNELS = 4


async def flood(target: str, *, num_requests: int, duration_s: float) -> Counter[str]:
    """Sends requests of 1 MiB at even intervals, whether or not those before have ended.

    Args:
        target: Address of the orchestrator.
        num_requests: How many.
        duration_s: Seconds from the first to the last.

    Returns:
        How many ended with which status.
    """
    channels = [open_channel(target) for _ in range(_NUM_CHANNELS)]
    stubs = [orchestrator_pb2_grpc.OrchestratorServiceStub(channel) for channel in channels]
    message = orchestrator_pb2.ChatMessage(role="user", content="a word, and more. " * (MIB // 18))
    prompts = [
        orchestrator_pb2.GenerateRequest(text=message.content),
        orchestrator_pb2.GenerateRequest(chat=orchestrator_pb2.ChatMessages(messages=[message])),
        orchestrator_pb2.GenerateRequest(token_ids=orchestrator_pb2.TokenIds(token_ids=[300] * (MIB // 2))),
        # Of what a model takes, and yet of the size of the others.
        orchestrator_pb2.GenerateRequest(text="a word", stop=["x" * 1024] * 1024),
    ]
    began = time.monotonic()

    async def send(index: int) -> str:
        await asyncio.sleep(began + duration_s * index / num_requests - time.monotonic())
        try:
            async for _ in stubs[index % _NUM_CHANNELS].Generate(prompts[index % len(prompts)]):
                pass
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    codes = Counter(await asyncio.gather(*map(send, range(num_requests))))
    for channel in channels:
        await channel.close()
    return codes


async def flood_from_elsewhere(target: str, *, num_requests: int, duration_s: float) -> Counter[str]:
    """Does so in another process, so that its work doesn't slow down who measures."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, target, str(num_requests), str(duration_s), stdout=asyncio.subprocess.PIPE
    )
    try:
        written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Counter(json.loads(written))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("num_requests", type=int)
    parser.add_argument("duration_s", type=float)
    options = parser.parse_args()
    counted = asyncio.run(flood(options.target, num_requests=options.num_requests, duration_s=options.duration_s))
    sys.stdout.write(json.dumps(counted))
