"""The engines that the contract holds for. Each is started once, since some take long.

Tests of the arithmetic run on models of several families, as `transformers/gemma3`.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from services.engines.base import EngineOptions, LlmEngine, SlmEngine
from services.engines.factory import EngineUnavailable, create_llm_engine, create_slm_engine
from services.engines.fakes import FakeLlmEngine, FakeSlmEngine
from tests.contract.drivers import LlmDriver, SlmDriver
from tests.contract.families import family_config
from tests.contract.reference import FakeReference, PlainModel, Reference
from tests.contract.tiny_models import write_model, write_tiny_llm, write_tiny_slm

SGLANG = pytest.param("sglang", marks=pytest.mark.sglang)
REAL_ENGINES = ["transformers", SGLANG]
ENGINES = ["fake", *REAL_ENGINES]

CHUNK_LEN = 32
SMALL_KV_TOKENS = 256

Prompts = Callable[..., list[int]]


@pytest.fixture(scope="session")
def tiny_slm(engine_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slm")
    family = engine_name.partition("/")[2]
    return write_model(folder, family_config(family), seed=1) if family else write_tiny_slm(folder)


@pytest.fixture(scope="session")
def tiny_llm(engine_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    family = engine_name.partition("/")[2]
    return write_model(folder, family_config(family), seed=2) if family else write_tiny_llm(folder)


@pytest.fixture
def prompt(request: pytest.FixtureRequest) -> Prompts:
    """Makes random prompts, the same ones in each run of a test, and other ones in each test."""
    generator = random.Random(request.node.name)
    return lambda length: [generator.randrange(1, 128) for _ in range(length)]


@pytest.fixture(scope="session", params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def make_slm_engine(name: str, options: EngineOptions) -> SlmEngine:
    if name == "fake":
        return FakeSlmEngine(options)
    try:
        return create_slm_engine(name.partition("/")[0], options)
    except EngineUnavailable as error:
        pytest.skip(str(error))


def make_llm_engine(name: str, options: EngineOptions) -> LlmEngine:
    if name == "fake":
        return FakeLlmEngine(options)
    try:
        return create_llm_engine(name.partition("/")[0], options)
    except EngineUnavailable as error:
        pytest.skip(str(error))


def options_for(folder: Path, kv_cache_tokens: int = 4096) -> EngineOptions:
    return EngineOptions(
        model=str(folder), max_batch_size=4, kv_cache_tokens=kv_cache_tokens, prefill_chunk_len=CHUNK_LEN
    )


@pytest.fixture(scope="session")
def slm_reference(engine_name: str, tiny_slm: Path) -> Reference:
    return FakeReference(str(tiny_slm)) if engine_name == "fake" else PlainModel(tiny_slm)


@pytest.fixture(scope="session")
def llm_reference(engine_name: str, tiny_llm: Path) -> Reference:
    return FakeReference(str(tiny_llm)) if engine_name == "fake" else PlainModel(tiny_llm)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_slm_engine(engine_name: str, tiny_slm: Path) -> AsyncIterator[SlmEngine]:
    engine = make_slm_engine(engine_name, options_for(tiny_slm))
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_small_slm_engine(engine_name: str, tiny_slm: Path) -> AsyncIterator[SlmEngine]:
    engine = make_slm_engine(engine_name, options_for(tiny_slm, SMALL_KV_TOKENS))
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_llm_engine(engine_name: str, tiny_llm: Path) -> AsyncIterator[LlmEngine]:
    engine = make_llm_engine(engine_name, options_for(tiny_llm))
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_small_llm_engine(engine_name: str, tiny_llm: Path) -> AsyncIterator[LlmEngine]:
    engine = make_llm_engine(engine_name, options_for(tiny_llm, SMALL_KV_TOKENS))
    await engine.start()
    yield engine
    await engine.stop()


async def _driven_slm(engine: SlmEngine) -> AsyncIterator[SlmDriver]:
    driver = SlmDriver(engine)
    yield driver
    driver.close_all()
    assert (engine.load.num_active_sequences, engine.load.num_kv_tokens_used) == (0, 0)


async def _driven_llm(engine: LlmEngine) -> AsyncIterator[LlmDriver]:
    driver = LlmDriver(engine)
    yield driver
    driver.release_all()
    assert (engine.load.num_active_sequences, engine.load.num_kv_tokens_used) == (0, 0)


@pytest_asyncio.fixture(loop_scope="session")
async def slm(shared_slm_engine: SlmEngine) -> AsyncIterator[SlmDriver]:
    async for driver in _driven_slm(shared_slm_engine):
        yield driver


@pytest_asyncio.fixture(loop_scope="session")
async def small_slm(shared_small_slm_engine: SlmEngine) -> AsyncIterator[SlmDriver]:
    async for driver in _driven_slm(shared_small_slm_engine):
        yield driver


@pytest_asyncio.fixture(loop_scope="session")
async def llm(shared_llm_engine: LlmEngine) -> AsyncIterator[LlmDriver]:
    async for driver in _driven_llm(shared_llm_engine):
        yield driver


@pytest_asyncio.fixture(loop_scope="session")
async def small_llm(shared_small_llm_engine: LlmEngine) -> AsyncIterator[LlmDriver]:
    async for driver in _driven_llm(shared_small_llm_engine):
        yield driver
