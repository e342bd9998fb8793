import struct
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.index.token_log import (
    HEADER_LEN,
    MAX_BATCH_TOKENS,
    RECORD_LEN,
    LogCursor,
    TokenLog,
    log_header,
    pack_tokens,
    read_log,
)
from services.orchestrator.routing.actions import AcceptedToken, Source

VOCAB_SIZE = 2**31
HEADER = log_header(b"fingerprint", b"pair")
TOKENS = [AcceptedToken(7, Source.SLM, 0.25), AcceptedToken(9, Source.LLM, 1.0), AcceptedToken(0, Source.SLM, 0.0)]

tokens = st.lists(
    st.builds(AcceptedToken, st.integers(0, VOCAB_SIZE - 1), st.sampled_from(Source), st.floats(0, 1, width=32)),
    max_size=20,
)


def log_of(tokens: list[AcceptedToken]) -> bytes:
    return HEADER + pack_tokens(tokens, HEADER[-4:])[0]


def read(log: bytes, vocab_size: int = VOCAB_SIZE) -> TokenLog:
    return read_log(log, HEADER, vocab_size)


@settings(deadline=None)
@given(tokens)
def test_log_reads_as_it_was_packed(accepted: list[AcceptedToken]) -> None:
    assert read(log_of(accepted)) == TokenLog(belongs=True, tokens=tuple(accepted))
    assert len(log_of(accepted)) == HEADER_LEN + len(accepted) * RECORD_LEN


@settings(deadline=None)
@given(tokens, st.data())
def test_damaged_log_reads_as_a_prefix_and_says_so(accepted: list[AcceptedToken], data: st.DataObject) -> None:
    log = bytearray(log_of(accepted))
    start = data.draw(st.integers(0, len(log)), label="start")
    stop = data.draw(st.integers(start, len(log)), label="stop")
    log[start:stop] = data.draw(st.binary(max_size=40), label="instead")

    found = read(bytes(log))

    assert found.tokens == tuple(accepted[: len(found.tokens)])
    whole_records = len(log) >= HEADER_LEN and (len(log) - HEADER_LEN) % RECORD_LEN == 0
    cut_off = whole_records and bytes(log) == log_of(accepted)[: len(log)]
    assert found.damaged != cut_off


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_read_as_no_tokens(log: bytes) -> None:
    assert read(log) == TokenLog(belongs=False, damaged=True)


def test_log_of_another_request_or_pair_is_whole_but_doesnt_belong() -> None:
    for header in (log_header(b"another", b"pair"), log_header(b"fingerprint", b"another")):
        assert read_log(log_of(TOKENS), header, VOCAB_SIZE) == TokenLog(belongs=False)


@pytest.mark.parametrize(
    "record",
    [
        struct.pack("<IBf", VOCAB_SIZE, 1, 0.5),
        struct.pack("<IBf", 1, 0, 0.5),
        struct.pack("<IBf", 1, 5, 0.5),
        struct.pack("<IBf", 1, 1, -float("inf")),
        struct.pack("<IBf", 1, 1, float("nan")),
        struct.pack("<IBf", 1, 1, float("inf")),
    ],
)
def test_token_that_cant_be_ends_the_log_whatever_its_checksum(record: bytes) -> None:
    log = log_of(TOKENS)
    (check,) = struct.unpack("<I", log[-4:])
    log += record + struct.pack("<I", crc32(record, check))

    assert read(log) == TokenLog(belongs=True, tokens=tuple(TOKENS), damaged=True)


def test_cursor_moves_only_when_a_batch_is_written() -> None:
    cursor = LogCursor("r", HEADER)
    lost = cursor.batch(TOKENS[:1])
    batch = cursor.batch(TOKENS)

    assert (lost.position, lost.end, batch.position, batch.end) == (0, 1, 0, 3)
    assert cursor.num_logged == 0
    cursor.written(batch)
    assert cursor.num_logged == 3
    assert HEADER + batch.records == log_of(TOKENS)


@settings(deadline=None)
@given(tokens, st.lists(st.integers(0, 20)))
def test_batches_in_turn_make_up_the_log(accepted: list[AcceptedToken], lengths: list[int]) -> None:
    log, cursor = HEADER, LogCursor("r", HEADER)

    for length in [*sorted(lengths), len(accepted)]:
        batch = cursor.batch(accepted[: min(length, len(accepted))])
        assert log[-4:] == batch.check_before
        log += batch.records
        assert log[-4:] == batch.check_after
        cursor.written(batch)

    assert log == log_of(accepted)


def test_cursor_of_a_resumed_request_goes_on_where_the_log_ends() -> None:
    batch = LogCursor("r", HEADER, TOKENS[:2]).batch(TOKENS)

    assert (batch.position, batch.check_before) == (2, log_of(TOKENS[:2])[-4:])
    assert log_of(TOKENS[:2]) + batch.records == log_of(TOKENS)


def test_cursor_of_a_missing_log_begins_anew() -> None:
    cursor = LogCursor("r", HEADER, TOKENS[:2])
    cursor.missing()

    assert cursor.batch(TOKENS) == LogCursor("r", HEADER).batch(TOKENS)


def test_long_completion_is_written_in_parts() -> None:
    completion = TOKENS[:1] * (MAX_BATCH_TOKENS + 1)
    cursor = LogCursor("r", HEADER)
    first = cursor.batch(completion)
    cursor.written(first)

    assert first.end == MAX_BATCH_TOKENS
    assert cursor.batch(completion).end == MAX_BATCH_TOKENS + 1
