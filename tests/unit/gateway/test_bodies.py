import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.bodies import MAX_DEPTH, parse_object
from services.gateway.errors import ApiError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=6)


@given(OBJECTS, st.booleans(), st.booleans())
def test_object_is_read_as_it_was_written(value: dict[str, object], escapes: bool, has_mark: bool) -> None:
    data = json.dumps(value, ensure_ascii=escapes).encode("utf-8-sig" if has_mark else "utf-8")
    assert parse_object(data) == value


@given(st.binary(max_size=64))
def test_bytes_of_any_kind_are_an_object_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(ApiError):
        assert isinstance(parse_object(data), dict)


def nested(depth: int) -> bytes:
    return b'{"tools": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_nesting_is_taken_to_its_limit() -> None:
    assert parse_object(nested(MAX_DEPTH))


@pytest.mark.parametrize(
    ("data", "param", "message"),
    [
        (b"", None, "isn't valid JSON"),
        (b"[]", None, "has to be a JSON object"),
        (b"null", None, "has to be a JSON object"),
        (b'{"a": }', None, "line 1, column 7"),
        (b'{"a": 1', None, "isn't valid JSON"),
        (b'{"temperature": NaN}', None, "NaN"),
        (b'{"temperature": -Infinity}', None, "-Infinity"),
        (b'{"temperature": 1e999}', "temperature", "no finite number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", None, "too many digits"),
        (b'{"prompt": "\\ud800"}', "prompt", "surrogate"),
        (b'{"messages": [{"content": "\\udc00x"}]}', "messages[0].content", "surrogate"),
        (b'{"metadata": {"\\ud800": 1}}', "metadata", "surrogate"),
        (b'{"n": 1, "n": 2}', "n", "twice"),
        (b'{"a": {"b": 1, "b": 1}}', "b", "twice"),
        (b"\xff\xfe{}", None, "isn't UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', None, "isn't UTF-8"),
        (nested(MAX_DEPTH + 1), "tools", "nested deeper"),
        (nested(500_000), None, "nested deeper"),
        (b'{"a":' * 500_000, None, "nested deeper"),
    ],
)
def test_bad_body_is_refused_and_says_why(data: bytes, param: str | None, message: str) -> None:
    with pytest.raises(ApiError) as error:
        parse_object(data)
    assert error.value.kind.status == 400
    assert error.value.param == param
    assert message in error.value.message


def test_pairs_of_surrogates_and_nul_are_text() -> None:
    assert parse_object(b'{"prompt": "\\ud83d\\ude00\\u0000"}') == {"prompt": "😀\0"}
    assert math.isclose(parse_object(b'{"a": 1e308}')["a"], 1e308)
