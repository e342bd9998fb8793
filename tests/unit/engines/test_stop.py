from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.engines.base import EngineOptions, SlmEngine
from services.engines.factory import create_slm_engine
from services.engines.fakes import FakeSlmEngine
from tests.contract.tiny_models import write_tiny_slm


@pytest.fixture(params=["fake", "transformers"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> SlmEngine:
    options = EngineOptions(model=str(write_tiny_slm(tmp_path)))
    return FakeSlmEngine(options) if request.param == "fake" else create_slm_engine("transformers", options)


async def test_stop_ends_a_waiting_step_and_every_later_one(engine: SlmEngine) -> None:
    await engine.start()
    waiting = asyncio.ensure_future(engine.step())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await engine.stop()
    for step in (waiting, asyncio.ensure_future(engine.step())):
        with pytest.raises(asyncio.CancelledError):
            await step


async def test_stop_while_a_step_runs_lets_it_return_or_be_cancelled(engine: SlmEngine) -> None:
    await engine.start()
    engine.open(1, [1, 2, 3], epoch=0, draft_until=100, stop_token_ids=frozenset())
    running = asyncio.ensure_future(engine.step())
    await asyncio.sleep(0)
    await engine.stop()
    (result,) = await asyncio.gather(running, return_exceptions=True)
    assert isinstance(result, asyncio.CancelledError) or hasattr(result, "token_ids")
