"""Notices that a checkpoint's directory holds something else.

Owns what counts as a change. A link to a directory that is led elsewhere is one, which is how Kubernetes changes the
files of a ConfigMap or Secret, and so are other files in the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Stamp = tuple[tuple[int, int, int], ...]
"""Inode, time of change and size of each file; empty where one is missing."""


class CheckpointWatch:
    """Tells when there is another checkpoint, once its files have come to rest.

    Args:
        files: The files that make a checkpoint.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._known = self._last = self._stamp()

    def has_changed(self) -> bool:
        """Whether there is something new, which was there at the last look as well. True once for each change."""
        now = self._stamp()
        at_rest, self._last = now == self._last, now
        if not (now and at_rest) or now == self._known:
            return False
        self._known = now
        return True

    def _stamp(self) -> Stamp:
        try:
            found = [path.stat() for path in self._files]
        except OSError:
            return ()
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)
