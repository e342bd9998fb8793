"""The bytes of a token log: what a running request has accepted, so that another orchestrator can go on with it.

Owns the format. Where a log is kept, and for how long, is the prefix index's business.

A log is one string: a header, then a record of 13 bytes for each token. The header tells whose log it is. Each
record ends with a checksum of all bytes up to there, so that the last four bytes of a log vouch for the whole of it:
who appends compares them and knows that the log holds exactly the tokens before its own. A log can therefore have no
hole, and never mixes two lives of a request, which may differ where a float's last bits decide.

The checksums are without a key. They are against damage, not against somebody who may write to Redis on purpose: such
a one can put words into the mouth of a stream that is resumed, which is what Redis's password is for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from zlib import crc32

from services.orchestrator.routing.actions import AcceptedToken, Source

_OWNER_LEN = 16
_CHECK = struct.Struct("<I")
_TOKEN = struct.Struct("<IBf")
_SOURCES = {source.value: source for source in Source}

HEADER_LEN = _OWNER_LEN + _CHECK.size
"""Bytes before the first record."""

RECORD_LEN = _TOKEN.size + _CHECK.size
"""Bytes for a token."""

MAX_BATCH_TOKENS = 4096
"""Tokens that are appended at once; more are left to the next time."""


@dataclass(frozen=True, slots=True)
class TokenLog:
    """What a log says.

    Args:
        belongs: Whether it is the log of the request that asked; another request or pair may have had its id.
        tokens: The accepted completion tokens, from the first on, without a gap; none if it doesn't belong.
        damaged: Whether it goes on with what isn't a log.
    """

    belongs: bool
    tokens: tuple[AcceptedToken, ...] = ()
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Tokens to append to a log, after exactly those that come before them.

    Args:
        request_id: The request.
        header: Its header.
        position: Index of the first token in the completion. At 0 the log begins anew.
        check_before: The last bytes of the log up to there.
        records: The tokens; none to see whether the log holds those before.
        check_after: The last bytes of the log with them.
    """

    request_id: str
    header: bytes
    position: int
    check_before: bytes
    records: bytes
    check_after: bytes

    @property
    def end(self) -> int:
        """Index of the token after the last one."""
        return self.position + len(self.records) // RECORD_LEN


def log_header(fingerprint: bytes, models_identity: bytes) -> bytes:
    """The header of a request's logs.

    Args:
        fingerprint: Differs for requests that may get other tokens.
        models_identity: At most 64 bytes that differ for other models.
    """
    owner = blake2b(fingerprint, digest_size=_OWNER_LEN, key=models_identity).digest()
    return owner + _CHECK.pack(crc32(owner))


def pack_tokens(tokens: Iterable[AcceptedToken], check: bytes) -> tuple[bytes, bytes]:
    """Packs tokens: token id, source and score (as float32), little-endian, and their checksum.

    Args:
        tokens: The tokens.
        check: The last 4 bytes of what they follow.

    Returns:
        The records, and the last 4 bytes of the log that ends with them.
    """
    (value,) = _CHECK.unpack(check)
    records = bytearray()
    for token in tokens:
        record = _TOKEN.pack(token.token_id, token.source.value, token.score)
        value = crc32(record, value)
        records += record + _CHECK.pack(value)
    return bytes(records), _CHECK.pack(value)


def read_log(log: bytes, header: bytes, vocab_size: int) -> TokenLog:
    """Reads a log, up to where it is damaged.

    Args:
        log: Any bytes.
        header: The header of the request that asks.
        vocab_size: A token's id is below it.
    """
    if log[:HEADER_LEN] != header:
        owner, check = log[:_OWNER_LEN], log[_OWNER_LEN:HEADER_LEN]
        return TokenLog(belongs=False, damaged=check != _CHECK.pack(crc32(owner)))
    (value,) = _CHECK.unpack(header[_OWNER_LEN:])
    tokens: list[AcceptedToken] = []
    for start in range(HEADER_LEN, len(log) - RECORD_LEN + 1, RECORD_LEN):
        record = log[start : start + _TOKEN.size]
        value = crc32(record, value)
        token_id, source, score = _TOKEN.unpack(record)
        if (
            log[start + _TOKEN.size : start + RECORD_LEN] != _CHECK.pack(value)
            or token_id >= vocab_size
            or source not in _SOURCES
            or not math.isfinite(score)
        ):
            break
        tokens.append(AcceptedToken(token_id, _SOURCES[source], score))
    damaged = len(log) != HEADER_LEN + len(tokens) * RECORD_LEN
    return TokenLog(belongs=True, tokens=tuple(tokens), damaged=damaged)


class LogCursor:
    """How much of a request's completion its log is known to hold.

    Args:
        request_id: The request.
        header: Its header.
        resumed: Tokens that were read from the log, or that it is yet to be checked for.
    """

    def __init__(self, request_id: str, header: bytes, resumed: Sequence[AcceptedToken] = ()) -> None:
        self._request_id = request_id
        self._header = header
        self._position = len(resumed)
        self._check = pack_tokens(resumed, header[_OWNER_LEN:])[1]

    @property
    def num_logged(self) -> int:
        """Leading tokens of the completion that are known to be in the log."""
        return self._position

    def batch(self, completion: Sequence[AcceptedToken]) -> LogBatch:
        """What the log doesn't hold of a completion, as far as it is written at once. It may be nothing."""
        new = completion[self._position : self._position + MAX_BATCH_TOKENS]
        records, check_after = pack_tokens(new, self._check)
        return LogBatch(self._request_id, self._header, self._position, self._check, records, check_after)

    def written(self, batch: LogBatch) -> None:
        """The log holds a batch, and all before it."""
        self._position, self._check = batch.end, batch.check_after

    def missing(self) -> None:
        """The log doesn't hold what it was thought to: all is to be written again."""
        self._position, self._check = 0, self._header[_OWNER_LEN:]
