from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict

from services.common.files.yaml_file import MAX_BYTES, MAX_DEPTH, read_yaml

# Each name stands for nine of the one before it: a billion words, written in 405 bytes.
BOMB = "a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


class FileError(ValueError):
    """What the files of these tests raise."""


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["one", "two"] = "one"


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    count: int = 0
    inner: Inner = Inner()


def read(tmp_path: Path, text: str) -> Schema:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path, Schema, FileError)


def test_file_within_all_bounds_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, "name: x\ncount: 3\ninner: {kind: two}\n").inner.kind == "two"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, r"not YAML: aliases are not allowed\n.*line 2"),
        ("name: &x y\ninner: *x\n", "aliases are not allowed"),
        ("name: &x {a: 1}\ninner:\n  <<: *x\n", "aliases are not allowed"),
        ("name: " + "[" * 100_000, f"nested more than {MAX_DEPTH} deep"),
        ("name: " + "{a: " * 50_000, f"nested more than {MAX_DEPTH} deep"),
        ("- " * 100_000, f"nested more than {MAX_DEPTH} deep"),
        ("name: x\n#" + "x" * MAX_BYTES, f"larger than {MAX_BYTES} bytes"),
        ("name: x\ncount: " + "1" * 5000, "not YAML"),
        ("name: 2024-13-99\n", "not YAML"),
        ("name: !!python/object/apply:os.system [ls]\n", "not YAML"),
        ("name: \x00\n", "not YAML"),
        ("name: x\n" + "k" * 1000 + ": 1\n", "unknown key 'kkk"),
        ("1: x\n", "name: Field required"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_bad_file_of_any_kind_is_the_readers_error_in_few_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FileError, match=f"(?s)file\\.yaml: .*{words}") as error:
        read(tmp_path, text)
    assert len(str(error.value).replace(str(tmp_path), "")) < 500


def test_bomb_is_as_small_as_it_looks() -> None:
    assert len(BOMB) < 450


def test_wrong_value_is_quoted_in_few_words(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"inner\.kind: unknown value 'zzz") as error:
        read(tmp_path, f"name: x\ninner: {{kind: {'z' * 100_000}}}\n")
    assert len(str(error.value).replace(str(tmp_path), "")) < 300


def test_missing_key_is_named_without_what_stands_around_it(tmp_path: Path) -> None:
    with pytest.raises(FileError) as refused:
        read(tmp_path, "count: 1\ninner: {kind: one}\n")
    assert str(refused.value) == f"{tmp_path / 'file.yaml'}: name: Field required"
