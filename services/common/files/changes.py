"""Whether a file is still the one that it was."""

from __future__ import annotations

from pathlib import Path


def file_signature(path: Path) -> object:
    """Differs from an earlier one if the file was changed, replaced or taken away; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
