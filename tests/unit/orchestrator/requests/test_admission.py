from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import CapacityExceeded
from services.orchestrator.requests.admission import Admission


class _Request:
    """Runs until it is told to end."""

    def __init__(self, admission: Admission, request_id: str, order: list[str]) -> None:
        self.request_id = request_id
        self.may_end = asyncio.Event()
        self.runs = False
        self._admission = admission
        self._order = order
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._admission.place():
            self._order.append(self.request_id)
            self.runs = True
            try:
                await self.may_end.wait()
            finally:
                self.runs = False


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _start(admission: Admission, number: int) -> tuple[list[_Request], list[str]]:
    order: list[str] = []
    requests = [_Request(admission, str(index), order) for index in range(number)]
    await _settle()
    return requests, order


async def _end(requests: list[_Request]) -> None:
    for request in requests:
        request.task.cancel()
    await asyncio.gather(*(request.task for request in requests), return_exceptions=True)


async def test_requests_beyond_both_bounds_are_refused_at_once_with_a_time_to_retry() -> None:
    admission = Admission(2, 3)
    requests, order = await _start(admission, 7)
    assert order == ["0", "1"]
    assert (admission.num_active, admission.num_waiting, admission.num_refused) == (2, 3, 2)
    for request in requests[5:]:
        error = request.task.exception()
        assert isinstance(error, CapacityExceeded)
        assert error.retry_after_s > 0
        assert "max_waiting_requests" in str(error)
    await _end(requests)


async def test_requests_that_wait_run_in_the_order_in_which_they_came() -> None:
    admission = Admission(1, 4)
    requests, order = await _start(admission, 5)
    for request in requests:
        request.may_end.set()
        await _settle()
    assert order == ["0", "1", "2", "3", "4"]
    assert (admission.num_active, admission.num_waiting) == (0, 0)


async def test_request_that_leaves_while_it_waits_gives_its_place_in_line_away() -> None:
    admission = Admission(1, 2)
    requests, order = await _start(admission, 3)
    requests[1].task.cancel()
    await _settle()
    assert admission.num_waiting == 1
    requests[0].may_end.set()
    await _settle()
    assert order == ["0", "2"]
    await _end(requests)
    assert admission.num_active == 0


async def test_request_that_leaves_in_the_moment_of_its_turn_passes_it_on() -> None:
    admission = Admission(1, 2)
    requests, order = await _start(admission, 3)
    requests[0].may_end.set()
    await asyncio.sleep(0)
    # Its turn has come, but it has not run yet.
    assert admission.num_waiting == 1
    requests[1].task.cancel()
    await _settle()
    assert order == ["0", "2"]
    await _end(requests)
    assert (admission.num_active, admission.num_waiting) == (0, 0)


async def test_deadline_ends_the_wait() -> None:
    admission = Admission(1, 2)
    requests, _ = await _start(admission, 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), admission.place():
            raise AssertionError("there is no place")
    assert (admission.num_active, admission.num_waiting) == (1, 0)
    await _end(requests)


@settings(deadline=None, max_examples=200)
@given(max_active=st.integers(1, 4), max_waiting=st.integers(0, 4), seed=st.integers(0, 2**32))
def test_admission_random_comings_and_goings_keep_both_bounds_and_lose_no_place(
    max_active: int, max_waiting: int, seed: int
) -> None:
    asyncio.run(_come_and_go(max_active, max_waiting, random.Random(seed)))


def _assert_first_come_runs_first(requests: list[_Request]) -> None:
    """In the order in which they came: those that run, then those that wait."""
    runs = [request.runs for request in requests if not request.task.done()]
    assert runs == sorted(runs, reverse=True), "one that came later runs while another waits"


async def _come_and_go(max_active: int, max_waiting: int, draw: random.Random) -> None:
    admission = Admission(max_active, max_waiting)
    requests: list[_Request] = []
    for step in range(60):
        open_requests = [request for request in requests if not request.task.done()]
        move = draw.choice(["come", "come", "end", "leave"])
        if move == "come" or not open_requests:
            requests.append(_Request(admission, str(step), []))
        else:
            request = draw.choice(open_requests)
            if move == "end":
                request.may_end.set()
            else:
                request.task.cancel()
        for _ in range(draw.randrange(4)):
            await asyncio.sleep(0)
        num_running = sum(request.runs for request in requests)
        assert num_running <= max_active
        assert admission.num_waiting <= max_waiting
        if draw.randrange(4) == 0:
            await _settle()
            _assert_first_come_runs_first(requests)
    await _settle()
    _assert_first_come_runs_first(requests)
    num_open = sum(not request.task.done() for request in requests)
    assert admission.num_active == sum(request.runs for request in requests) == min(num_open, max_active)
    for request in requests:
        request.may_end.set()
    async with asyncio.timeout(5):
        for request in requests:
            with suppress(CapacityExceeded, asyncio.CancelledError):
                await request.task
    assert (admission.num_active, admission.num_waiting) == (0, 0)
