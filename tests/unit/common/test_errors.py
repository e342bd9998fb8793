from __future__ import annotations

import pytest

from services.common.errors import MAX_MESSAGE_BYTES, CapacityExceeded, InvalidRequest, TriviumError, error_for_code


def test_message_that_fits_is_kept_as_it_is() -> None:
    assert str(InvalidRequest("stop[0]: é is 漢 — not")) == "stop[0]: é is 漢 — not"


@pytest.mark.parametrize("quoted", ["a" * 10**6, "漢" * 10**6, "\x00" * 10**6, "\ud800" * 10**6, "é\n" * 700])
def test_message_that_quotes_long_input_is_bounded_and_keeps_field_and_end(quoted: str) -> None:
    text = str(InvalidRequest(f"text: {quoted} isn't allowed"))
    assert len(text.encode()) <= MAX_MESSAGE_BYTES
    assert text.startswith("text: ")
    assert text.endswith(" isn't allowed")
    assert text.isprintable()


def test_message_control_characters_are_escaped() -> None:
    assert str(InvalidRequest("role: a\r\nb\x00\u202e\ud800")) == r"role: a\r\nb\x00\u202e\ud800"


def test_message_from_a_peer_is_bounded_too() -> None:
    assert len(str(error_for_code(3, "x" * 10**6))) <= MAX_MESSAGE_BYTES


def test_afresh_is_equal_but_has_no_traceback() -> None:
    error = CapacityExceeded("full", retry_after_s=3)
    with pytest.raises(TriviumError):
        raise error
    fresh = error.afresh()
    assert (type(fresh), str(fresh), fresh.retry_after_s) == (CapacityExceeded, "full", 3)
    assert fresh.__traceback__ is None
    assert error.__traceback__ is not None
