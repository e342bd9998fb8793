"""What an unfinished run has so far: a JSONL file that only grows, one line a finished question.

The first line says what is run; a file of another run is never gone on with. A line that a killed process has left
unfinished is cut off when the file is opened again, so every line but the last is always whole.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class JournalError(RuntimeError):
    """A journal can't be gone on with. The message names the file, and the field or line."""


class Journal:
    """An open journal. Close it, or use it as a context manager.

    Attributes:
        path: The file.
        rows: Finished rows by their key, in the order in which they were finished.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], key: str) -> None:
        """Begins a journal, or goes on with one.

        Args:
            path: The file; its folder is made when missing.
            run: What is run, as JSON values; a journal of the file has to be of the same.
            key: Name of the field that tells rows apart.

        Raises:
            JournalError: Another process writes the file, it is of another run, or damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        self._key = key
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            self._read(dict(run))
        except JournalError:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Keeps a row; when this returns, no kill and no power cut can take it away."""
        self._write(row)
        self.rows[row[self._key]] = dict(row)

    def close(self) -> None:
        """Closes the file; another process may go on with it."""
        os.close(self._file)

    def _lock(self) -> None:
        try:
            # Freed by the kernel when this process ends, however it ends.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(f"{self.path}: another process is at this run") from error

    def _read(self, run: dict[str, Any]) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._file, whole)
        lines = content[:whole].splitlines()
        if not lines:
            self._write(run)
            return
        rows = [self._parse(number, line) for number, line in enumerate(lines, start=1)]
        self._check(rows[0], run)
        for number, row in enumerate(rows[1:], start=2):
            if self._key not in row:
                raise JournalError(f"{self.path}, line {number}: field {self._key!r} is missing")
            self.rows[row[self._key]] = row

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise JournalError(f"{self.path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise JournalError(f"{self.path}, line {number}: expected an object, found {type(row).__name__}")
        return row

    def _check(self, found: dict[str, Any], run: dict[str, Any]) -> None:
        for field in run.keys() | found.keys():
            if found.get(field) != run.get(field):
                raise JournalError(
                    f"{self.path}: holds a run with {field} {found.get(field)!r}, not {run.get(field)!r}; "
                    "give this run another name, or remove the file"
                )

    def _write(self, row: Mapping[str, Any]) -> None:
        line = memoryview(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        while line:
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)
