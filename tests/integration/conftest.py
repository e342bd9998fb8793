"""Fixtures of the integration tests, each from a module of its own."""

from tests.integration.harness.completions import reference_pair, references, routed_references
from tests.integration.harness.pair import pair
from tests.integration.harness.redis_fixture import redis_server

__all__ = ["pair", "redis_server", "reference_pair", "references", "routed_references"]
