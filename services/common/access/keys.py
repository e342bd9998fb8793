"""The keys that callers show, from a file that may change at any time.

Owns which key is whose, and what becomes of the tenants when the file changes: they keep what they have taken.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from services.common.access.keys_file import KeyEntry, KeysFile, KeysFileError, key_digest, read_keys_file
from services.common.access.tenant import Reason, Refusal, Tenant
from services.common.files.changes import file_signature

logger = logging.getLogger(__name__)

FOLLOW_INTERVAL_S = 2.0
"""Seconds between two looks at the file."""

_SCHEME = "bearer "
# Of what is hashed.
_MAX_KEY_LEN = 256
# Of a digest, by which keys are found; the rest is compared in a time that tells nothing.
_NUM_INDEX_BYTES = 4


class Keys:
    """Knows whose key one is.

    Args:
        path: The file.
        clock: Tells the time in seconds; never goes back.
        now: Tells the date.

    Attributes:
        current: Whether what is used is what the file holds; False after a change that can't be used.
        num_refused: Callers refused by `tenant_of`, and by whoever counts here, by reason.

    Raises:
        KeysFileError: The file can't be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = path
        self._clock = clock
        self._now = now
        self._tenants: dict[str, Tenant] = {}
        self._entries: dict[bytes, list[KeyEntry]] = {}
        self.current = True
        self.num_refused: Counter[Reason] = Counter()
        self._signature = file_signature(path)
        self._use(read_keys_file(path))

    def tenant_of(self, header: str | None) -> Tenant | Refusal:
        """Finds out who calls.

        Args:
            header: Value of the `authorization` header: "Bearer tvm_…"; None where there is none.
        """
        found = self._find(header)
        if isinstance(found, Refusal):
            self.num_refused[found.reason] += 1
        return found

    async def follow(self) -> None:
        """Reads the file again whenever it has changed, until cancelled. The event loop is left free."""
        while True:
            await asyncio.sleep(FOLLOW_INTERVAL_S)
            if (signature := file_signature(self._path)) != self._signature:
                self._take_over(signature, await asyncio.to_thread(_try_to_read, self._path))

    def refresh(self) -> None:
        """Reads the file again if it has changed."""
        if (signature := file_signature(self._path)) != self._signature:
            self._take_over(signature, _try_to_read(self._path))

    def _take_over(self, signature: object, content: KeysFile | KeysFileError) -> None:
        self._signature = signature
        self.current = isinstance(content, KeysFile)
        if isinstance(content, KeysFile):
            self._use(content)
            logger.info("keys_file was read again", extra={"num_keys": len(content.keys)})
        else:
            logger.error("keys_file: keys go on as they were: %s", content)

    def _use(self, content: KeysFile) -> None:
        for name, limits in content.tenants.items():
            if name in self._tenants:
                self._tenants[name].set_limits(limits)
            else:
                self._tenants[name] = Tenant(name, limits, self._clock)
        # One that is gone is kept: who comes back owes what he owed.
        self._entries = {}
        for entry in content.keys:
            self._entries.setdefault(entry.sha256[:_NUM_INDEX_BYTES], []).append(entry)

    def _find(self, header: str | None) -> Tenant | Refusal:
        if not header:
            return Refusal(Reason.UNKNOWN_KEY, "authorization: there is no key; send `Bearer` and one")
        key = shown_key(header)
        if key is None or len(header) > len(_SCHEME) + _MAX_KEY_LEN:
            return Refusal(Reason.UNKNOWN_KEY, "authorization: expected `Bearer` and a key")
        digest = key_digest(key)
        for entry in self._entries.get(digest[:_NUM_INDEX_BYTES], ()):
            if hmac.compare_digest(entry.sha256, digest):
                if entry.expires is not None and self._now() >= entry.expires:
                    return Refusal(Reason.EXPIRED_KEY, "authorization: the key has expired")
                return self._tenants[entry.tenant]
        return Refusal(Reason.UNKNOWN_KEY, "authorization: the key is unknown")


def shown_key(header: str) -> str | None:
    """The key in an `authorization` header, whether or not it counts; None where there is no `Bearer` before it."""
    return header[len(_SCHEME) :].strip() if header[: len(_SCHEME)].lower() == _SCHEME else None


def _try_to_read(path: Path) -> KeysFile | KeysFileError:
    try:
        return read_keys_file(path)
    except KeysFileError as error:
        return error
