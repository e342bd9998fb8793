"""Fixtures of the tests through HTTP."""

from tests.integration.gateway.door import door

__all__ = ["door"]
