"""Reads the JSON body of a request, without letting a large, slow or odd one hurt anybody else.

Owns what is a body at all: its size, the time it may take, its encoding and its JSON. What stands in it is up to
`services.gateway.openai`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request

from services.gateway.errors import BY_STATUS, ApiError, invalid

MAX_DEPTH = 64
"""How deep arrays and objects may be nested."""

# About 1 ms of parsing: less than handing it to a thread and back takes on a busy machine.
_SHORT_BYTES = 64 * 1024
_JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^\s;"']+)""", re.IGNORECASE)


async def read_json(request: Request, *, max_bytes: int, timeout_s: float) -> dict[str, Any]:
    """Reads the body of a request that has to be a JSON object.

    Args:
        request: Its body has not been read yet.
        max_bytes: Longest body.
        timeout_s: Seconds that it may take to arrive.

    Raises:
        ApiError: It isn't read, or isn't a JSON object.
        ClientDisconnect: The client went away.
    """
    _check_type(request)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            data = await _read(request, max_bytes)
    except TimeoutError:
        raise ApiError(BY_STATUS[408], f"the body took longer than {timeout_s:g} s to arrive", closes=True) from None
    if len(data) <= _SHORT_BYTES:
        return parse_object(data)
    return await asyncio.to_thread(parse_object, data)


def parse_object(data: bytes) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
        ApiError: It is none, names a field twice, or holds numbers that aren't finite, lone surrogates or too deep a
            nesting.
    """
    try:
        value = json.loads(
            data.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_without_twins
        )
    except UnicodeDecodeError as error:
        raise invalid(None, f"the body isn't UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise invalid(None, f"the body isn't valid JSON: {error.msg} ({where})") from None
    except ValueError:
        # An integer of thousands of digits.
        raise invalid(None, "the body holds a number with too many digits") from None
    if not isinstance(value, dict):
        raise invalid(None, "the body has to be a JSON object")
    _check(value, "", 1)
    return value


async def _read(request: Request, max_bytes: int) -> bytes:
    chunks, num_bytes = [], 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_type(request: Request) -> None:
    # A client that names none means JSON, as no other type is served.
    given = request.headers.get("content-type", "application/json")
    kind, _, parameters = given.partition(";")
    charset = _CHARSET.search(parameters)
    if not _JSON_TYPE.fullmatch(kind.strip()):
        raise ApiError(
            BY_STATUS[415],
            "the body isn't JSON: send Content-Type: application/json",
            "Content-Type",
            closes=True,
        )
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise ApiError(BY_STATUS[415], "the body has to be encoded in UTF-8", "Content-Type", closes=True)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(BY_STATUS[415], "the body mustn't be compressed", "Content-Encoding", closes=True)


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(BY_STATUS[413], f"the body has more than {max_bytes} bytes", closes=True)


def _too_deep(param: str | None = None) -> ApiError:
    return invalid(param, f"nested deeper than {MAX_DEPTH}")


def _refuse_constant(name: str) -> float:
    raise invalid(None, f"the body holds {name}, which is no JSON")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        # Which of them counts is anybody's guess.
        [(twin, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise invalid(_shown(twin), "given twice in one object")
    return found


def _check(value: object, path: str, depth: int) -> None:
    if isinstance(value, str):
        if _has_surrogate(value):
            raise invalid(path, "holds half of a surrogate pair")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise invalid(path, "is no finite number")
    elif isinstance(value, (dict, list)):
        if depth > MAX_DEPTH:
            raise _too_deep(path.partition(".")[0].partition("[")[0] or None)
        for name, part in _parts(value, path):
            _check(part, name, depth + 1)


def _parts(value: dict[str, Any] | list[Any], path: str) -> Iterable[tuple[str, object]]:
    if isinstance(value, dict):
        for name in value:
            if _has_surrogate(name):
                raise invalid(path or None, "a name in it holds half of a surrogate pair")
        return ((f"{path}.{_shown(name)}" if path else _shown(name), part) for name, part in value.items())
    if set(map(type, value)) <= {int}:
        return ()
    return ((f"{path}[{index}]", part) for index, part in enumerate(value))


def _has_surrogate(text: str) -> bool:
    try:
        return not text.isascii() and not text.encode()
    except UnicodeEncodeError:
        return True


def _shown(name: str) -> str:
    return name[:64].encode("utf-8", "backslashreplace").decode()
