from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import Cancelled, InvalidRequest
from services.orchestrator.requests.arrivals import Arrivals
from services.orchestrator.requests.task import GenerationTask
from tests.rules import router_rule


@dataclass
class _Request:
    """A request whose prompt takes a moment to be read."""

    request_id: str
    resume_from: int | None = None
    prompt: int = 1
    is_readable: bool = True

    async def task(self) -> GenerationTask:
        await asyncio.sleep(0)
        if not self.is_readable:
            raise InvalidRequest("chat.messages: no")
        return GenerationTask(self.request_id, (self.prompt,), 5, router_rule(0.5))


@dataclass
class _Sequence:
    """What a request has become."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    @property
    def running(self) -> bool:
        return not self.ended.is_set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.ended.set()


class _Handler:
    """Handles a request: waits until it may run, then runs until it may end."""

    def __init__(self, arrivals: Arrivals, request: _Request) -> None:
        self.request = request
        self.may_run = asyncio.Event()
        self.sequence = _Sequence()
        self.is_in = False
        self.task = asyncio.create_task(self._run(arrivals))

    async def _run(self, arrivals: Arrivals) -> None:
        arrival = await arrivals.arrive(self.request)
        self.is_in = True
        try:
            with arrival:
                await self.may_run.wait()
                await self.request.task()
                arrival.sequence = self.sequence
            await self.sequence.ended.wait()
            if self.sequence.error:
                raise self.sequence.error
        finally:
            self.is_in = False
            arrivals.leave(arrival)


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("runs", [True, False])
async def test_cancel_ends_what_runs_and_what_waits_once(runs: bool) -> None:
    arrivals = Arrivals()
    handler = _Handler(arrivals, _Request("r"))
    if runs:
        handler.may_run.set()
    await _settle()
    assert arrivals.cancel("r")
    assert not arrivals.cancel("r")
    assert not arrivals.cancel("another")
    with pytest.raises(Cancelled, match="'r' was cancelled"):
        await handler.task
    assert not arrivals.cancel("r")


async def test_client_that_leaves_in_the_moment_of_its_cancel_is_still_gone() -> None:
    arrivals = Arrivals()
    handler = _Handler(arrivals, _Request("r"))
    await _settle()
    arrivals.cancel("r")
    handler.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler.task


@pytest.mark.parametrize(
    "newcomer",
    [_Request("r"), _Request("r", 0, prompt=2)],
    ids=["doesn't resume", "another prompt"],
)
async def test_name_in_use_is_refused_and_what_has_it_goes_on(newcomer: _Request) -> None:
    arrivals = Arrivals()
    old = _Handler(arrivals, _Request("r"))
    await _settle()
    with pytest.raises(InvalidRequest, match="request_id: 'r' is running already"):
        await arrivals.arrive(newcomer)
    old.may_run.set()
    await _settle()
    old.sequence.ended.set()
    await old.task


async def test_resume_of_a_name_whose_prompt_cant_be_read_is_refused() -> None:
    arrivals = Arrivals()
    old = _Handler(arrivals, _Request("r", is_readable=False))
    await _settle()
    with pytest.raises(InvalidRequest, match="request_id: 'r' is running already"):
        await arrivals.arrive(_Request("r", 0))
    old.task.cancel()


@given(seed=st.integers(0, 2**32))
def test_random_comings_and_goings_leave_one_of_each_name_and_lose_none(seed: int) -> None:
    asyncio.run(_come_and_go(random.Random(seed)))


async def _come_and_go(draw: random.Random) -> None:
    arrivals = Arrivals()
    handlers: list[_Handler] = []
    left: set[_Handler] = set()
    for _ in range(60):
        alive = [handler for handler in handlers if not handler.task.done()]
        move = draw.choice(["come", "come", "run", "end", "leave", "cancel"])
        if move == "come" or not alive:
            name, resume_from = draw.choice("ab"), draw.choice([None, 0, 3])
            handlers.append(_Handler(arrivals, _Request(name, resume_from)))
        else:
            handler = draw.choice(alive)
            if move == "run":
                handler.may_run.set()
            elif move == "end":
                handler.sequence.ended.set()
            elif move == "leave":
                left.add(handler)
                handler.task.cancel()
            else:
                arrivals.cancel(handler.request.request_id)
        for _ in range(draw.randrange(4)):
            await asyncio.sleep(0)
        if draw.randrange(4) == 0:
            await _settle()
            for name in "ab":
                here = [each for each in handlers if each.is_in and each.request.request_id == name]
                assert len(here) <= 1
    for handler in handlers:
        handler.may_run.set()
        handler.sequence.ended.set()
    for handler in handlers:
        [outcome] = await asyncio.gather(handler.task, return_exceptions=True)
        if isinstance(outcome, asyncio.CancelledError):
            assert handler in left
        else:
            assert outcome is None or isinstance(outcome, Cancelled | InvalidRequest)
    assert not arrivals.cancel("a")
    assert not arrivals.cancel("b")
