"""What the process that runs SGLang says to the engine that owns it.

Owns the layout of these messages on both ends, and their check: a message that isn't laid out so never becomes a
chunk. Framing is `services.engines.sglang.frames`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.engines.sglang.frames import Header, pack_frame
from services.engines.sglang.rows import ROWS_KEY, Row, unpack_rows
from services.engines.sglang.troubles import Trouble, trouble_of_abort

CACHE_CLEARED = "cache-cleared"
"""Request id of the answer to `clear_cache`; its trouble says why the cache wasn't cleared."""

PROGRESS = "progress"
"""Request id of the message that SGLang's scheduler has got on since the last one."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What SGLang has to say about a request.

    Args:
        request_id: The request.
        token_ids: New tokens.
        rows: What the sampler said of each of them.
        choices: The model's greedy choices at the positions asked for; comes once.
        num_prompt_tokens: Length of the request's prefix.
        num_cached_tokens: Leading tokens of it whose KV was found in the prefix cache.
        is_last: The request has ended.
        trouble: What went wrong; None if nothing did. Nothing but `message` counts then.
        message: SGLang's words about it.
    """

    request_id: str
    token_ids: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    choices: list[int] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    is_last: bool = True
    trouble: Trouble | None = None
    message: str = ""


def pack_output(request_id: str, output: Header) -> bytes:
    """Packs what `async_generate` said about a request."""
    meta = output["meta_info"]
    reason = meta["finish_reason"]
    if reason is not None and reason["type"] == "abort":
        return pack_trouble(request_id, trouble_of_abort(reason), str(reason["message"]))
    rows: list[bytes] = meta.get(ROWS_KEY, [])
    header = {
        "request_id": request_id,
        "token_ids": output["output_ids"],
        "choices": [top[0][1] for top in meta.get("input_top_logprobs", [])[1:]],
        "num_prompt_tokens": meta["prompt_tokens"],
        "num_cached_tokens": meta["cached_tokens"],
        "is_last": reason is not None,
    }
    return pack_frame(header, b"".join(rows))


def pack_trouble(request_id: str, trouble: Trouble, message: str) -> bytes:
    """Packs that a request has failed."""
    return pack_frame({"request_id": request_id, "trouble": trouble, "message": message})


def pack_news(request_id: str) -> bytes:
    """Packs a message that has no content: `PROGRESS` or `CACHE_CLEARED`."""
    return pack_frame({"request_id": request_id})


def unpack_chunk(header: Mapping[str, Any], body: bytes) -> Chunk:
    """Undoes all `pack_*`.

    Raises:
        ValueError: A field of the message has another type or length than it must have; the message names it.
    """
    request_id = _typed(header, "request_id", str)
    if "trouble" in header:
        trouble = Trouble(_typed(header, "trouble", str))
        return Chunk(request_id, trouble=trouble, message=_typed(header, "message", str))
    if "token_ids" not in header:
        return Chunk(request_id)
    token_ids = _typed(header, "token_ids", list)
    return Chunk(
        request_id,
        token_ids=[_typed_id(token_id) for token_id in token_ids],
        rows=unpack_rows(body, len(token_ids)),
        choices=[_typed_id(token_id) for token_id in _typed(header, "choices", list)],
        num_prompt_tokens=_typed(header, "num_prompt_tokens", int),
        num_cached_tokens=_typed(header, "num_cached_tokens", int),
        is_last=_typed(header, "is_last", bool),
    )


def _typed(header: Mapping[str, Any], name: str, kind: type) -> Any:
    value = header.get(name)
    if not isinstance(value, kind):
        raise ValueError(f"{name}: expected {kind.__name__}, got {value!r:.64}")
    return value


def _typed_id(token_id: object) -> int:
    if not isinstance(token_id, int):
        raise ValueError(f"token_ids: expected integers, got {token_id!r:.64}")
    return token_id
