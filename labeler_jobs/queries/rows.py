"""Rows of local files and of Hugging Face datasets, each knowing its place, so that an error names it.

Owns files and fields; what a field means is `labeler_jobs.queries.sources`' business.
"""

from __future__ import annotations

import csv
import datetime
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""Endings of the files that can be read."""

# Editors and spreadsheets put a byte order mark before UTF-8; it is no part of the text.
_ENCODING = "utf-8-sig"


class QueryError(ValueError):
    """Queries can't be loaded. The message names the file, and the field and row where there is one."""


class Row:
    """One row with its place.

    Attributes:
        number: Counted from 1 over the whole source.
        place: File and row, for errors.
    """

    def __init__(self, place: str, number: int, fields: Any) -> None:
        """Takes a row.

        Args:
            place: File and row, for errors.
            number: Its number in the source.
            fields: What stands in it.

        Raises:
            QueryError: If the row isn't an object with fields.
        """
        if not isinstance(fields, Mapping):
            raise QueryError(f"{place}: expected an object with fields, found {_kind(fields)}")
        self.number = number
        self.place = place
        self._fields = fields

    @property
    def names(self) -> list[str]:
        """Names of its fields."""
        return [str(name) for name in self._fields]

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self._fields.get(name) is not None

    def text(self, *names: str, default: str | None = None) -> str:
        """A text that must not be empty.

        Args:
            names: The names that the field goes by; the first that the row has counts.
            default: What stands in for a field that is missing or null; None demands it.

        Raises:
            QueryError: If it is missing, blank, or neither text nor whole number, or holds half a character.
        """
        name, value = self._find(names)
        if value is None and default is not None:
            return default
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise self.wrong(name, f"expected text, found {_kind(value)}")
        if not value.strip():
            raise self.wrong(name, "is empty")
        return self._whole(name, value)

    def answer(self, *names: str) -> str:
        """A short answer, text or a whole number, under the first of `names` that the row has.

        Raises:
            QueryError: If it is missing, blank or of another type.
        """
        name, value = self._find(names)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.wrong(name, f"expected text or a whole number, found {_kind(value)}")
        if not str(value).strip():
            raise self.wrong(name, "is empty")
        return self._whole(name, str(value).strip())

    def value(self, name: str) -> Any:
        """What stands in a field, of whatever type; None where it is missing or null."""
        return self._fields.get(name)

    def date(self, name: str) -> datetime.date:
        """A day, as ISO text or as a timestamp column.

        Raises:
            QueryError: If it is missing or no date.
        """
        _, value = self._find([name])
        if isinstance(value, datetime.datetime):
            return value.date()
        try:
            return datetime.datetime.fromisoformat(value).date()
        except (TypeError, ValueError) as error:
            raise self.wrong(name, f"expected a date, found {value!r}") from error

    def first_message(self, name: str, roles: Sequence[str]) -> str:
        """The first message of a conversation: a list of objects with `from` and `value`.

        Raises:
            QueryError: If the field isn't such a list, or its first message isn't from one of `roles`.
        """
        _, turns = self._find([name])
        if not isinstance(turns, list) or not turns:
            raise self.wrong(name, f"expected a list of messages, found {_kind(turns)}")
        turn = Row(f"{self.place}, field {name!r}, message 1", self.number, turns[0])
        role = turn.text("from")
        if role not in roles:
            raise turn.wrong("from", f"expected {' or '.join(roles)}, found {role!r}")
        return turn.text("value")

    def _whole(self, name: str, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.wrong(name, f"holds half a character, {text[error.start]!r}") from error
        return text

    def _find(self, names: Sequence[str]) -> tuple[str, Any]:
        name = next((name for name in names if name in self._fields), " or ".join(names))
        return name, self._fields.get(name)

    def wrong(self, name: str, what: str) -> QueryError:
        """An error about a field, to be raised: file, row, field, and `what` unless the field is missing."""
        return QueryError(f"{self.place}: field {name!r} {what if name in self._fields else 'is missing'}")


def read_rows(path: str, config: str, split: str) -> Iterator[Row]:
    """Reads the rows of a file, a folder or a Hugging Face dataset.

    Args:
        path: A JSON, JSONL, CSV or Parquet file; a folder of them; or a dataset's id, with "@revision" if wanted.
        config: Configuration of a dataset; empty for its default one.
        split: Split of a dataset; of a folder, the beginning of the files' names or the name of a folder in it. A
            file has no splits.

    Yields:
        Rows in the order of the files.

    Raises:
        QueryError: If there is nothing to read or a file is damaged; the message names it and the row.
    """
    local = Path(path).expanduser()
    rows: Iterator[tuple[str, Any]]
    if local.is_dir():
        rows = chain.from_iterable(map(_read_file, _split_files(local, split)))
    elif local.is_file():
        rows = _read_file(local)
    elif local.suffix in SUFFIXES or path.startswith(("/", ".", "~")):
        raise QueryError(f"{path}: no such file or folder")
    else:
        rows = _read_dataset(path, config, split)
    number = 0
    for number, (place, fields) in enumerate(rows, start=1):
        yield Row(place, number, fields)
    if not number:
        raise QueryError(f"{path}: has no rows")


def _split_files(folder: Path, split: str) -> list[Path]:
    inner = folder / split
    files = sorted(inner.iterdir()) if inner.is_dir() else sorted(folder.glob(f"{split}*"))
    found = [file for file in files if file.suffix in SUFFIXES]
    if not found:
        raise QueryError(f"{folder}: no {', '.join(SUFFIXES)} file of the split {split!r}")
    return found


def _read_file(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        if file.suffix == ".parquet":
            rows = _read_parquet(file)
        elif file.suffix == ".jsonl":
            rows = _read_json_lines(file)
        elif file.suffix == ".json":
            rows = _read_json(file)
        elif file.suffix == ".csv":
            rows = _read_csv(file)
        else:
            raise QueryError(f"{file}: expected one of {', '.join(SUFFIXES)}")
        yield from rows
    except OSError as error:
        raise QueryError(f"{file}: can't be read: {error}") from error
    except UnicodeDecodeError as error:
        raise QueryError(f"{file}: isn't UTF-8 text: {error}") from error


def _read_json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open(encoding=_ENCODING) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{file}, row {number}", _parse_json(line, f"{file}, row {number}")


def _read_json(file: Path) -> Iterator[tuple[str, Any]]:
    rows = _parse_json(file.read_text(encoding=_ENCODING), str(file))
    if not isinstance(rows, list):
        raise QueryError(f"{file}: expected a list of objects, found {_kind(rows)}")
    for number, row in enumerate(rows, start=1):
        yield f"{file}, row {number}", row


def _parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    # Integers of thousands of digits and endless nesting aren't errors of the decoder's own.
    except (ValueError, RecursionError) as error:
        raise QueryError(f"{place}: not JSON: {error}") from error


def _read_csv(file: Path) -> Iterator[tuple[str, Any]]:
    """Rows under a header; an empty cell is a field that isn't there, and so is a column without a name."""
    # A question may be longer than the module expects of a cell.
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding=_ENCODING, newline="") as lines:
        cells = csv.reader(lines, strict=True)
        try:
            names = next(cells, [])
            _check_header(file, names)
            number, line = 0, cells.line_num
            for row in cells:
                first_line, line = line + 1, cells.line_num
                if not row:
                    continue
                number += 1
                place = f"{file}, row {number} (line {first_line})"
                if len(row) != len(names):
                    raise QueryError(f"{place}: {len(row)} cells under {len(names)} columns")
                yield place, {name: cell or None for name, cell in zip(names, row, strict=True) if name}
        except csv.Error as error:
            raise QueryError(f"{file}, line {cells.line_num}: not CSV: {error}") from error


def _check_header(file: Path, names: Sequence[str]) -> None:
    named = [name for name in names if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise QueryError(f"{file}: the column {twice[0]!r} is there twice")
    for separator in ";\t|":
        if len(names) == 1 and separator in names[0]:
            raise QueryError(f"{file}: columns are parted by {separator!r}, not by commas")


def _read_parquet(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        with pq.ParquetFile(file) as parquet:
            rows = chain.from_iterable(batch.to_pylist() for batch in parquet.iter_batches())
            for number, row in enumerate(rows, start=1):
                yield f"{file}, row {number}", row
    except pa.ArrowException as error:
        raise QueryError(f"{file}: not a readable Parquet file: {error}") from error


def _read_dataset(path: str, config: str, split: str) -> Iterator[tuple[str, Any]]:
    # Takes seconds to import, and most sources are local files.
    import datasets
    from datasets.exceptions import DatasetsError

    name, _, revision = path.partition("@")
    try:
        rows = datasets.load_dataset(name, config or None, split=split, revision=revision or None)
    except (DatasetsError, OSError, ValueError) as error:
        raise QueryError(f"{path}: the split {split!r} can't be loaded: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, split {split!r}, row {number}", row


def _kind(value: Any) -> str:
    return "null" if value is None else "nothing" if value in ([], "") else type(value).__name__
