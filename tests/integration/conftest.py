"""Fixtures of the integration tests, each from a module of its own."""

from tests.integration.redis_fixture import redis_server

__all__ = ["redis_server"]
