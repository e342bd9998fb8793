"""Reads the tests of a LiveCodeBench row, which come as JSON or packed.

Packed tests are base64 of zlib of a pickle that holds one text, the JSON. A pickle is a program, so it isn't run: its
instructions are read, and only a pickle that does nothing but push one text is accepted.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from dataclasses import dataclass
from typing import Any, Literal

from evaluation.graders.code_tests import CodeTest, read_value

Kind = Literal["stdin", "functional"]

_MAX_UNPACKED_BYTES = 2**30
_TEXT = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
_HARMLESS = frozenset({"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"})


class TestsError(ValueError):
    """Tests can't be read. The message says why."""

    __test__ = False


@dataclass(frozen=True)
class ContestTests:
    """Tests of one field.

    Attributes:
        kinds: How they are run; "functional" tests call a function.
        tests: The tests, in order.
    """

    kinds: frozenset[Kind]
    tests: tuple[CodeTest, ...]


def read_tests(text: str) -> ContestTests:
    """Reads a field of tests.

    Args:
        text: A JSON list of objects with `input`, `output` and `testtype`; or the same, packed.

    Raises:
        TestsError: It is neither, or a test isn't complete.
    """
    listed = text.lstrip().startswith("[")
    try:
        rows: Any = json.loads(text if listed else _unpack(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, TestsError):
            raise
        raise TestsError(f"the tests aren't JSON: {error}") from error
    if not isinstance(rows, list):
        raise TestsError(f"expected a list of tests, found {type(rows).__name__}")
    kinds: set[Kind] = set()
    tests = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("input", "output")):
            raise TestsError(f"test {number} has no text as its input and output")
        kind = row.get("testtype")
        if kind not in ("stdin", "functional"):
            raise TestsError(f"test {number}: testtype {kind!r} is neither 'stdin' nor 'functional'")
        kinds.add(kind)
        _check(number, row, kind)
        tests.append(CodeTest(row["input"], row["output"]))
    return ContestTests(frozenset(kinds), tuple(tests))


def _check(number: int, row: dict[str, Any], kind: Kind) -> None:
    """What would fail in the middle of a run is refused before it."""
    for name in ("input", "output"):
        try:
            row[name].encode()
            values = row[name].split("\n") if name == "input" else [row[name]]
            for value in values if kind == "functional" else ():
                if value.strip() or name == "output":
                    read_value(value)
        except UnicodeEncodeError as error:
            raise TestsError(
                f"the tests can't be run: test {number}: {name} holds half a character, {error.object[error.start]!r}"
            ) from error
        except ValueError as error:
            raise TestsError(f"the tests can't be run: test {number}: {name} isn't JSON: {error}") from error


def _unpack(text: str) -> str:
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(packed, _MAX_UNPACKED_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise TestsError(f"the tests are neither JSON nor base64 of zlib: {error}") from error
    if not unpacker.eof:
        raise TestsError(f"the tests are cut off, or larger than {_MAX_UNPACKED_BYTES} bytes")
    return _only_text(content)


def _only_text(pickled: bytes) -> str:
    texts: list[str] = []
    try:
        for instruction, argument, _ in pickletools.genops(pickled):
            if instruction.name in _TEXT:
                texts.append(str(argument))
            elif instruction.name not in _HARMLESS:
                raise TestsError(f"the tests are a pickle with the instruction {instruction.name}, which isn't run")
    except ValueError as error:
        if isinstance(error, TestsError):
            raise
        raise TestsError(f"the tests are no pickle of a text: {error}") from error
    if len(texts) != 1:
        raise TestsError(f"the tests are a pickle of {len(texts)} texts, not one")
    return texts[0]
