"""What a request has written so far, and how much of it its client has.

Owns the way of final tokens and their text to the client. What the tokens are is decided in the routing core.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from services.orchestrator.routing.actions import AcceptedToken, Emit, Finish, Source


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """Tokens that became final, the text of each, and at the end what was held back. The last one has the end."""

    tokens: Sequence[AcceptedToken]
    texts: Sequence[str]
    finish: Finish | None = None


class Answer:
    """The completion of one request.

    Args:
        resume_from: Completion tokens that the client has already.
    """

    def __init__(self, resume_from: int = 0) -> None:
        self.completion: list[AcceptedToken] = []
        """All final tokens, whether or not the client has them."""
        self.finish: Finish | None = None
        self.error: Exception | None = None
        """Why it failed, if it did."""
        self._resume_from = resume_from
        self._tokens: list[AcceptedToken] = []
        self._texts: list[str] = []
        self._changed = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether it has its last token, or has failed."""
        return self.finish is not None or self.error is not None

    def count(self, source: Source) -> int:
        """Tokens of one author."""
        return sum(token.source is source for token in self.completion)

    def put(self, emit: Emit) -> None:
        """Adds final tokens."""
        # A client that resumes has the first ones already.
        first = max(0, self._resume_from - len(self.completion))
        self.completion.extend(emit.tokens)
        if first < len(emit.tokens):
            self._tokens.extend(emit.tokens[first:])
            self._texts.extend(emit.texts[first:])
            self._changed.set()

    def end(self, finish: Finish) -> None:
        """There will be no more tokens."""
        self.finish = finish
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """There will be no more tokens, and the client is told why. The first error counts."""
        self.error = self.error or error
        self._changed.set()

    async def parts(self, interval_s: float) -> AsyncIterator[AnswerPart]:
        """Yields what became final, at most once in `interval_s` seconds, until the end.

        Raises:
            TriviumError: The request failed.
        """
        loop = asyncio.get_running_loop()
        next_time = 0.0
        while True:
            await self._changed.wait()
            delay = next_time - loop.time()
            if delay > 0 and not self.over:
                # Tokens that become final meanwhile share the message.
                await asyncio.sleep(delay)
            if self.error:
                raise self.error
            self._changed.clear()
            next_time = loop.time() + interval_s
            finish = self.finish
            tokens, self._tokens = self._tokens, []
            texts, self._texts = self._texts, []
            if finish:
                texts.append(finish.text)
            # The outbox fills again while the caller sends this.
            yield AnswerPart(tokens, texts, finish)
            if finish:
                return
