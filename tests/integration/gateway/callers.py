"""Callers that keep a gateway busy over HTTP, and hold every stream of it to its reference."""

from __future__ import annotations

import itertools
import ssl
import time
from collections.abc import Sequence

import httpx

from evaluation.exactness import Reference
from evaluation.reference.pair import LoadedPair
from tests.integration.gateway.answers import assert_answer, fields
from tests.integration.gateway.door import TIMEOUT_S, ask


class Callers:
    """Streams that follow one another without a break, until they are told to stop.

    Args:
        references: What they ask for, in turn.
        pair: The pair that answers.
    """

    def __init__(self, references: Sequence[Reference], pair: LoadedPair) -> None:
        self.stopping = False
        self.num_answers = 0
        self.num_tokens = 0
        self.num_running = 0
        self.longest_pause_s = 0.0
        self._references = itertools.cycle(references)
        self._pair = pair

    async def run(self, url: str, *, verify: ssl.SSLContext | bool = True) -> None:
        """Is one caller, with connections of its own.

        Args:
            url: The gateway's.
            verify: TLS of an HTTPS URL.
        """
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, verify=verify) as http:
            while not self.stopping:
                reference = next(self._references)
                self.num_running += 1
                try:
                    await self._stream(http, reference)
                finally:
                    self.num_running -= 1
                self.num_answers += 1
                self.num_tokens += len(reference.completion)

    async def _stream(self, http: httpx.AsyncClient, reference: Reference) -> None:
        last = time.monotonic()

        def note() -> None:
            nonlocal last
            now = time.monotonic()
            self.longest_pause_s, last = max(self.longest_pause_s, now - last), now

        body = {"prompt": list(reference.prompt_token_ids)} | fields(reference)
        answer = await ask(http, "text", body, stream=True, on_event=note)
        assert_answer(answer, reference, self._pair)
