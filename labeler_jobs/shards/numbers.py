"""Sets of shard numbers as text: "0,4-7", as Kubernetes writes the indexes of a Job.

Owns that format alone, so that it can be read where no shard can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PART = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


def parse_numbers(text: str) -> list[int]:
    """Reads numbers.

    Args:
        text: Numbers and ranges between commas; empty for none.

    Returns:
        Them, each once, ascending.

    Raises:
        ValueError: It is nothing of the kind.
    """
    numbers: set[int] = set()
    for part in text.split(",") if text else ():
        found = _PART.fullmatch(part)
        if found is None:
            raise ValueError(f"expected numbers and ranges such as 0,4-7, found {part!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"the range {part!r} ends before it begins")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def format_numbers(numbers: Iterable[int]) -> str:
    """Writes numbers as `parse_numbers` reads them."""
    runs: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
