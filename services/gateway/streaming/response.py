"""The response to a request for completions, streamed or not.

Owns the order of its parts, and which failures still have a status of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from pydantic_core import to_json
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from trivium.v1 import orchestrator_pb2 as pb

from services.client import CallFailed
from services.gateway.errors import INTERNAL, ApiError, of_call
from services.gateway.metrics import Counts
from services.gateway.openai.choice import Choice, Delta
from services.gateway.openai.plan import Plan
from services.gateway.openai.shapes import CHAT, TEXT, Envelope, Json
from services.gateway.openai.usage import running_usage, usage
from services.gateway.streaming.choices import ChoiceFailed, Choices, Orchestrators
from services.gateway.streaming.disconnect import ClientGone, unless_gone
from services.gateway.streaming.event_stream import EventStream
from services.gateway.streaming.sse import DONE, Place, event

logger = logging.getLogger(__name__)

# For the last words of an orchestrator whose time is up.
_SLACK_S = 5.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How requests are run.

    Args:
        timeout_s: Seconds that an answer may take.
        keep_alive_s: Seconds of silence after which a stream says that it is there.
    """

    timeout_s: float
    keep_alive_s: float


class CompletionResponse(Response):
    """Runs a plan while its client is there.

    Args:
        plan: What is asked for.
        orchestrators: Who answers.
        terms: How it is run.
        model: What the answer says that it is of.
        splits_reasoning: What is thought is told apart.
        counts: Where it is counted.
        resumed: Where the client's last stream broke.
        api_key: The client's; None where it showed none.
    """

    def __init__(
        self,
        plan: Plan,
        orchestrators: Orchestrators,
        terms: Terms,
        *,
        model: str,
        splits_reasoning: bool,
        counts: Counts,
        resumed: Place | None = None,
        api_key: str | None = None,
    ) -> None:
        super().__init__()
        self._plan = plan
        self._terms = terms
        self._counts = counts
        self._running = Choices(orchestrators, plan.requests, terms.timeout_s, api_key)
        self._shape = CHAT if plan.is_chat else TEXT
        self._envelope = Envelope(self._shape, plan.request_id, int(time.time()), model)
        self._resumed = resumed
        num_known = resumed.num_known if resumed else 0
        self._choices = [
            Choice(
                index,
                request.request_id,
                splits_reasoning=splits_reasoning,
                parses_tools=plan.shows_tools,
                includes_tokens=plan.request.include_token_sources,
                num_known=num_known,
                echo=plan.echoes[index] if plan.echoes else "",
            )
            for index, request in enumerate(plan.requests)
        ]
        self._started = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers."""

        async def work() -> None:
            async with asyncio.timeout(self._terms.timeout_s + _SLACK_S):
                await (self._stream(send) if self._plan.stream else self._whole(scope, receive, send))

        try:
            await unless_gone(receive, work())
        except ClientGone:
            self._counts.num_disconnects += 1
            logger.debug("client gone")
        except ChoiceFailed as failure:
            # Nothing was sent yet.
            await self._refusal(failure).response()(scope, receive, send)
        finally:
            self._counts.add(self._choices)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def take(index: int, message: pb.GenerateResponse) -> None:
            self._take(index, message)

        await self._running.run(take)
        choices = [self._shape.whole(choice) for choice in self._choices]
        await JSONResponse(self._envelope.answer(choices, usage(self._choices, self._plan.request.n)))(
            scope, receive, send
        )

    async def _stream(self, send: Send) -> None:
        stream = EventStream(send, len(self._choices), self._terms.keep_alive_s, self._opening())
        last_words = b""

        async def take(index: int, message: pb.GenerateResponse) -> None:
            nonlocal last_words
            events = self._events(index, message)
            if all(choice.finish is not None for choice in self._choices):
                last_words = events
            else:
                await stream.put(index, events)

        try:
            async with stream.kept_alive():
                await self._running.run(take)
        except ChoiceFailed as failure:
            if not stream.has_begun:
                raise
            last_words = event(to_json(self._refusal(failure).body()))
        else:
            if self._plan.includes_usage:
                totals = usage(self._choices, self._plan.request.n)
                last_words += event(self._envelope.chunk({"choices": [], "usage": totals}))
        await stream.end(last_words + DONE)

    def _opening(self) -> bytes:
        """The events before there is text, if any."""
        if self._resumed is not None:
            return b""
        openings = [self._shape.opening(choice.index) for choice in self._choices]
        return b"".join(self._event(opening) for opening in openings if opening is not None)

    def _events(self, index: int, message: pb.GenerateResponse) -> bytes:
        """The events that a message comes to, if any."""
        choice = self._choices[index]
        delta = self._take(index, message)
        place = Place(self._plan.request_id, choice.place) if len(self._choices) == 1 else None
        events = b"" if delta.is_empty else self._event(self._shape.delta(index, delta), place)
        if delta.finish_reason is not None:
            events += self._event(self._shape.ending(index, delta.finish_reason), place)
        return events

    def _take(self, index: int, message: pb.GenerateResponse) -> Delta:
        choice = self._choices[index]
        if self._counts.first_token_s and not choice.num_tokens and message.token_ids:
            self._counts.first_token_s(time.monotonic() - self._started)
        return choice.take(message)

    def _event(self, choice: Json, place: Place | None = None) -> bytes:
        chunk: Json = {"choices": [choice]}
        if self._plan.tells_usage:
            chunk["usage"] = running_usage(self._choices, self._plan.request.n)
        elif self._plan.includes_usage:
            chunk["usage"] = None
        return event(self._envelope.chunk(chunk), place)

    def _refusal(self, failure: ChoiceFailed) -> ApiError:
        cause = failure.__cause__
        if isinstance(cause, CallFailed):
            return of_call(cause, self._plan.prompt_params[failure.index])
        logger.error("a choice failed", exc_info=cause)
        return ApiError(INTERNAL, "internal error")
