"""What callers of an engine may ask for: the checks that all engines share.

Owns the errors of bad opens, rewinds and extensions, in the order in which they are found. Pure: it is told what is
held, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from services.common.errors import ContextLengthExceeded, InvalidRequest, PrefixConflict, PrefixNotFound
from services.engines.base import Extension


def check_token_ids(token_ids: Sequence[int], vocab_size: int) -> None:
    """Checks that all ids are of the vocabulary.

    Raises:
        InvalidRequest: One isn't.
    """
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        wrong = next(token_id for token_id in token_ids if not 0 <= token_id < vocab_size)
        raise InvalidRequest(f"token_ids: {wrong} is outside the vocabulary of {vocab_size}")


def check_open(
    sequence_id: int, token_ids: Sequence[int], *, is_open: bool, vocab_size: int, context_len: int
) -> None:
    """Checks a sequence that is to be opened.

    Args:
        sequence_id: The sequence.
        token_ids: Its prefix.
        is_open: Whether it is open already.
        vocab_size: The model's.
        context_len: Longest sequence that the engine takes.

    Raises:
        InvalidRequest: The sequence is open already, the prefix is empty, or an id is outside the vocabulary.
        ContextLengthExceeded: The prefix leaves no room for one token.
    """
    if is_open:
        raise InvalidRequest(f"sequence_id: {sequence_id} is open already")
    if not token_ids:
        raise InvalidRequest("token_ids: the prefix is empty")
    check_token_ids(token_ids, vocab_size)
    if len(token_ids) >= context_len:
        raise ContextLengthExceeded(f"token_ids: {len(token_ids)} tokens leave no room in a context of {context_len}")


def check_rewind(
    sequence_id: int,
    length: int,
    token_ids: Sequence[int],
    *,
    num_held: int | None,
    vocab_size: int,
    context_len: int,
) -> None:
    """Checks a rewind.

    Args:
        sequence_id: The sequence.
        length: Leading tokens that are to be kept.
        token_ids: What is to follow them.
        num_held: Tokens that the sequence has, drafts included; None if it isn't open.
        vocab_size: The model's.
        context_len: Longest sequence that the engine takes.

    Raises:
        PrefixNotFound: The sequence isn't open.
        PrefixConflict: It has fewer than `length` tokens.
        InvalidRequest: An id is outside the vocabulary, or no token would be left.
        ContextLengthExceeded: It would be longer than the context.
    """
    if num_held is None:
        raise PrefixNotFound(f"sequence_id: {sequence_id} is not open")
    if length > num_held:
        raise PrefixConflict(f"length: {length} tokens are to be kept, {num_held} are held", need_from=num_held)
    if length < 0 or length + len(token_ids) < 1:
        raise InvalidRequest(f"length: {length} and {len(token_ids)} more leave no token")
    check_token_ids(token_ids, vocab_size)
    _check_context(length + len(token_ids), context_len)


def check_extension(extension: Extension, *, num_held: int | None, vocab_size: int, context_len: int) -> None:
    """Checks an extension.

    Args:
        extension: What is asked.
        num_held: Tokens that the engine has of the sequence; None if it doesn't know it.
        vocab_size: The model's.
        context_len: Longest sequence that the engine takes.

    Raises:
        InvalidRequest: No tokens, no or unordered query positions, a position out of range, an id outside the
            vocabulary.
        PrefixNotFound: The sequence is unknown and `base_len` > 0.
        PrefixConflict: It has fewer than `base_len` tokens; `need_from` tells how many.
        ContextLengthExceeded: It would be longer than the context.
    """
    base_len, end = extension.base_len, extension.base_len + len(extension.token_ids)
    if base_len < 0:
        raise InvalidRequest(f"base_length: {base_len} is negative")
    if not extension.token_ids:
        raise InvalidRequest("token_ids: there are none")
    _check_query_positions(extension.query_positions, base_len, end)
    check_token_ids(extension.token_ids, vocab_size)
    if num_held is None and base_len > 0:
        raise PrefixNotFound(f"sequence_id: {extension.sequence_id} is not held", need_from=0)
    if num_held is not None and base_len > num_held:
        raise PrefixConflict(f"base_length: {base_len} tokens are expected, {num_held} are held", need_from=num_held)
    _check_context(end, context_len)


def _check_query_positions(positions: Sequence[int], base_len: int, end: int) -> None:
    if not positions:
        raise InvalidRequest("query_positions: there are none")
    if any(later <= earlier for earlier, later in pairwise(positions)):
        raise InvalidRequest("query_positions: they must ascend")
    if positions[0] <= base_len or positions[-1] > end:
        wrong = positions[0] if positions[0] <= base_len else positions[-1]
        raise InvalidRequest(f"query_positions: {wrong} is not in {base_len + 1} to {end}")


def _check_context(num_tokens: int, context_len: int) -> None:
    if num_tokens > context_len:
        raise ContextLengthExceeded(f"token_ids: {num_tokens} tokens don't fit into a context of {context_len}")
