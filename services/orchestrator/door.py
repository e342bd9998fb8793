"""Lets callers in by their keys, and tells what becomes of a call who its tenant is.

Owns the way from a refusal to an error. Whose a key is and what a tenant may take is known to
`services.common.access`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from services.common.access.keys import Keys
from services.common.access.tenant import Refusal, Tenant
from services.common.errors import CapacityExceeded, Unauthenticated

CALLER: ContextVar[Tenant | None] = ContextVar("caller", default=None)
"""The tenant of the call that runs; None where callers need no key."""

_LIMITED = "Generate"


class KeyDoor:
    """Who may call an orchestrator: whoever shows a key as `authorization` metadata.

    Args:
        keys: All keys.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    @contextmanager
    def enter(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[None]:
        """Lets a call in; one of `Generate` counts as its tenant's until the context is left.

        Raises:
            Unauthenticated: There is no key, or none that counts.
            CapacityExceeded: The tenant has what it may have.
        """
        header = next((value for name, value in metadata if name == "authorization" and isinstance(value, str)), None)
        tenant = self._keys.tenant_of(header)
        if isinstance(tenant, Refusal):
            raise Unauthenticated(tenant.message)
        if method == _LIMITED and (refusal := tenant.enter()):
            self._keys.num_refused[refusal.reason] += 1
            raise CapacityExceeded(refusal.message, retry_after_s=refusal.retry_after_s or 0.0)
        caller = CALLER.set(tenant)
        try:
            yield
        finally:
            CALLER.reset(caller)
            if method == _LIMITED:
                tenant.leave()
