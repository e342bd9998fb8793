"""Packs accepted tokens for the token log, and joins its batches again.

Owns the byte format. Where a log is kept, and for how long, is the prefix index's business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.orchestrator.routing.actions import AcceptedToken, Source

_TOKEN = struct.Struct("<IBf")


@dataclass(frozen=True, slots=True)
class TokenLog:
    """What is known of a request that was running.

    Args:
        fingerprint: Of the request that wrote it: a resumed request with another one must be refused.
        tokens: The accepted completion tokens, from the first on, without a gap.
    """

    fingerprint: bytes
    tokens: tuple[AcceptedToken, ...]


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Accepted tokens to append to the log of a running request.

    Args:
        request_id: The request.
        fingerprint: Of the request; a log that another one has left behind is replaced.
        position: Index of the first of `tokens` in the completion.
        tokens: The batch.
    """

    request_id: str
    fingerprint: bytes
    position: int
    tokens: Sequence[AcceptedToken]


def pack_tokens(tokens: Iterable[AcceptedToken]) -> bytes:
    """Packs tokens into 9 bytes each: token id, source and divergence probability (as float32), little-endian."""
    return b"".join(_TOKEN.pack(token.token_id, token.source.value, token.divergence_probability) for token in tokens)


def unpack_tokens(packed: bytes) -> list[AcceptedToken]:
    """Reads what `pack_tokens` wrote.

    Raises:
        ValueError: The bytes aren't a whole number of tokens, or name an unknown source.
    """
    if len(packed) % _TOKEN.size:
        raise ValueError(f"token log: {len(packed)} bytes aren't whole tokens of {_TOKEN.size}")
    return [AcceptedToken(token_id, Source(source), p) for token_id, source, p in _TOKEN.iter_unpack(packed)]


def join_batches(batches: Mapping[int, bytes]) -> tuple[AcceptedToken, ...]:
    """Joins packed batches by the position of their first token, up to the first gap.

    Batches may overlap: an accepted token never changes, so both say the same.

    Raises:
        ValueError: A batch is damaged.
    """
    tokens: list[AcceptedToken] = []
    for position in sorted(batches):
        if position > len(tokens):
            break
        tokens.extend(unpack_tokens(batches[position])[len(tokens) - position :])
    return tuple(tokens)
