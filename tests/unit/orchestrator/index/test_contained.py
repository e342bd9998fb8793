import asyncio

import pytest

from services.orchestrator.index.contained import contained


async def test_work_that_ends_well_has_no_error() -> None:
    async def work() -> None: ...

    assert await contained(work()) is None


async def test_error_of_the_work_is_returned() -> None:
    async def work() -> None:
        raise LookupError("here")

    error = await contained(work())
    assert isinstance(error, LookupError)


async def test_cancelled_caller_ends_the_work_first() -> None:
    ended = False
    begun = asyncio.Event()

    async def work() -> None:
        nonlocal ended
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended = True

    caller = asyncio.create_task(contained(work()))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended
