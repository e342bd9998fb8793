"""Clients that keep a running pair busy, and hold every stream of it to its reference."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import grpc
from transformers import PreTrainedTokenizerBase
from trivium.v1 import orchestrator_pb2_grpc

from evaluation.exactness import Reference
from services.common.serving.channels import open_channel
from tests.integration.harness.completions import Completion, assert_is_reference, request_for


class Clients:
    """Streams that follow one another without a break, until they are told to stop.

    Args:
        references: What they ask for, in turn.
        tokenizer: The pair's: the text has to be that of the tokens.
    """

    def __init__(self, references: Sequence[Reference], tokenizer: PreTrainedTokenizerBase) -> None:
        self.stopping = False
        self.num_streams = 0
        self.num_tokens = 0
        self.num_running = 0
        self.longest_pause_s = 0.0
        self._references = itertools.cycle(references)
        self._tokenizer = tokenizer

    async def run(self, address: str) -> None:
        """Is one client, with a connection of its own."""
        async with open_channel(address) as channel:
            stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
            while not self.stopping:
                reference = next(self._references)
                completion = await self._stream(stub, reference)
                assert_is_reference(completion, reference)
                assert completion.text == self._tokenizer.decode(completion.token_ids, skip_special_tokens=True)
                self.num_streams += 1
                self.num_tokens += len(completion.token_ids)

    async def _stream(
        self, stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, reference: Reference
    ) -> Completion:
        completion, last = Completion(), time.monotonic()
        self.num_running += 1
        try:
            async for response in stub.Generate(request_for(reference)):
                completion.add(response)
                now = time.monotonic()
                self.longest_pause_s, last = max(self.longest_pause_s, now - last), now
        except grpc.aio.AioRpcError as error:
            raise AssertionError(f"a stream failed after {len(completion.token_ids)} tokens: {error}") from error
        finally:
            self.num_running -= 1
        assert completion.finish is not None
        assert completion.usage.num_fallback_tokens == 0
        return completion
