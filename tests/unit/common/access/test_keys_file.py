from __future__ import annotations

import contextlib
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.access.keys_file import KEY_PREFIX, KeysFileError, key_digest, key_line, new_key, read_keys_file

KEY = "tvm_Sx0w8tQZ5mB2vN4cL7kJ1hG6fD3sA9pO_yU-iE8rT0q"
SHA256 = key_digest(KEY).hex()


def _written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _text(**changes: Any) -> str:
    entry = {"tenant": "acme", "sha256": SHA256} | changes
    return yaml.safe_dump({"tenants": {"acme": {}}, "keys": [entry]})


def test_line_of_a_new_key_makes_a_file_that_knows_it(tmp_path: Path) -> None:
    key = new_key()
    path = _written(tmp_path, "tenants: {acme: {}}\nkeys:\n" + key_line("acme", key, date(2030, 1, 2)) + "\n")
    [entry] = read_keys_file(path).keys
    assert key.startswith(KEY_PREFIX)
    assert (entry.tenant, entry.sha256) == ("acme", key_digest(key))
    assert entry.expires == datetime(2030, 1, 2, tzinfo=UTC)


def test_json_is_read_as_well_and_limits_have_defaults(tmp_path: Path) -> None:
    content = {"tenants": {"acme": {"tokens_per_minute": 5}}, "keys": [{"tenant": "acme", "sha256": SHA256}]}
    limits = read_keys_file(_written(tmp_path, json.dumps(content))).tenants["acme"]
    assert (limits.tokens_per_minute, limits.max_concurrent_requests) == (5, None)
    assert limits.routing.llm_loss_policies == ("wait", "slm_only", "fail")


def test_new_keys_differ_and_have_256_bits() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(len(key.removeprefix(KEY_PREFIX)) for key in keys) >= 43


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_text(tenant="acne"), ["keys.0", "tenants has no 'acne'"]),
        (_text(sha256=KEY), ["keys.0.sha256"]),
        (_text(sha256=SHA256.upper()), ["keys.0.sha256"]),
        (_text(expires="tomorrow"), ["keys.0.expires"]),
        (_text(key=KEY), ["keys.0.key", "not permitted"]),
        (yaml.safe_dump({"tenants": {KEY: {}}, "keys": []}), ["tenants.…"]),
        (yaml.safe_dump({KEY: "acme"}), ["…"]),
        (yaml.safe_dump({"tenants": {"acme": {"tokens_per_minute": 0}}, "keys": []}), ["tokens_per_minute"]),
        (
            yaml.safe_dump(
                {"tenants": {"acme": {"routing": {"min_threshold": 0.5, "max_threshold": 0.4}}}, "keys": []}
            ),
            ["max_threshold is below min_threshold"],
        ),
        (f"tenants: {{a: {{}}}}\nkeys:\n{key_line('a', KEY)}\n{key_line('a', KEY)}", ["one stands there twice"]),
        (f"a: &a {KEY}\nb: *a", ["not YAML"]),
        (f"keys: [{KEY}\n  {SHA256}", ["not YAML in line"]),
        (KEY, []),
        ("", []),
    ],
)
def test_bad_file_says_where_and_quotes_neither_key_nor_hash(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(KeysFileError) as error:
        read_keys_file(_written(tmp_path, text))
    message = str(error.value)
    assert all(word in message for word in [str(tmp_path), *words]), message
    assert not any(secret in message for secret in (KEY, SHA256, SHA256.upper(), KEY[:20]))
    assert error.value.__cause__ is None


def test_missing_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(KeysFileError, match="nothing"):
        read_keys_file(tmp_path / "nothing")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_read_or_refused_with_one_kind_of_error(tmp_path: Path, content: bytes) -> None:
    with contextlib.suppress(KeysFileError):
        read_keys_file(_written(tmp_path, content))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(tenants=VALUES, keys=VALUES, field=st.sampled_from(["tenant", "sha256", "expires"]), value=VALUES)
def test_any_document_is_read_or_refused_with_one_kind_of_error(
    tmp_path: Path, tenants: Any, keys: Any, field: str, value: Any
) -> None:
    entry = {"tenant": "acme", "sha256": SHA256} | {field: value}
    for document in ({"tenants": tenants, "keys": keys}, {"tenants": {"acme": {}}, "keys": [entry]}):
        with contextlib.suppress(KeysFileError):
            read_keys_file(_written(tmp_path, yaml.safe_dump(document, allow_unicode=True)))
