"""Fixtures of the integration tests, each from a module of its own."""

from tests.integration.completions import reference_pair, references, routed_references
from tests.integration.pair import pair
from tests.integration.redis_fixture import redis_server

__all__ = ["pair", "redis_server", "reference_pair", "references", "routed_references"]
