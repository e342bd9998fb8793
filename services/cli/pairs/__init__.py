"""The pairs that ship with Trivium, one YAML file each.

Owns finding a pair by name or file; `services.common.pair` owns what stands in it.
"""

from __future__ import annotations

from pathlib import Path

from services.common.pair import PairError

_DIRECTORY = Path(__file__).resolve().parent


def shipped_pairs() -> dict[str, Path]:
    """The file of every pair that ships with Trivium, by its name."""
    return {path.stem: path for path in sorted(_DIRECTORY.glob("*.yaml"))}


def find_pair(name_or_file: str) -> Path:
    """Finds a pair file.

    Args:
        name_or_file: Name of a shipped pair, or path of a YAML file.

    Raises:
        PairError: It is neither.
    """
    shipped = shipped_pairs()
    if name_or_file in shipped:
        return shipped[name_or_file]
    path = Path(name_or_file)
    if path.is_file():
        return path
    raise PairError(f"no pair {name_or_file!r}: give a YAML file or one of {', '.join(shipped)}")
