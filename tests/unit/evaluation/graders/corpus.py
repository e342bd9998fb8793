"""Reads the tables of graded responses beside this file."""

from pathlib import Path

LINE_BREAK = "⏎"


def rows(name: str, num_columns: int) -> list[tuple[str, ...]]:
    """Rows of a table: columns are separated by `|`, the last one may hold it too; lines with `#` are comments.

    Args:
        name: File name.
        num_columns: What every row must have.
    """
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").split("\n")
    found = [line.split("|", num_columns - 1) for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(row) == num_columns for row in found)
    return [
        (*(cell.strip(" ") for cell in row[:-1]), row[-1].removeprefix(" ").replace(LINE_BREAK, "\n"))
        for row in found
    ]
