"""Fixtures with a real Redis server."""

from collections.abc import Iterator

import pytest

from services.cli.pair.redis_server import RedisServer


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
