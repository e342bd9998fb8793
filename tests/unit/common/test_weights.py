from pathlib import Path

import pytest

from services.common.weights import (
    WeightsError,
    are_other_weights,
    digest_weights,
    folder_revision,
    model_revision,
    names_weights,
)

COMMIT, OTHER_COMMIT = "a1" * 20, "b2" * 20
DIGEST, OTHER_DIGEST = "c3" * 8, "d4" * 8


def made_folder(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    return folder


def test_digest_is_of_all_weights_in_order_of_name_and_of_nothing_else(tmp_path: Path) -> None:
    one = made_folder(tmp_path / "one", a=b"first", b=b"second")
    same = made_folder(tmp_path / "same", b=b"second", a=b"first")
    (same / "config.json").write_text("{}")
    other = made_folder(tmp_path / "other", a=b"first", b=b"2nd")
    assert digest_weights(one) == digest_weights(same) != digest_weights(other)
    assert names_weights(digest_weights(one))


def test_folder_without_weights_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"{tmp_path}: holds no"):
        folder_revision(tmp_path)


def test_snapshot_of_the_hub_is_known_by_its_commit(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "models--org--name" / "snapshots" / COMMIT, a=b"first")
    assert folder_revision(folder) == model_revision(str(folder)) == COMMIT


def test_model_of_the_hub_is_known_by_the_commit_that_its_branch_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = made_folder(tmp_path / "models--org--name" / "snapshots" / COMMIT, a=b"first")
    (folder / "config.json").write_text("{}")
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text(COMMIT)
    assert model_revision("org/name") == model_revision("org/name", "main") == COMMIT
    assert model_revision("org/name", "v2") == "v2"
    assert model_revision("org/unknown") == ""
    assert model_revision("/no/such/folder", "main") == "main"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (COMMIT, OTHER_COMMIT, True),
        (DIGEST, OTHER_DIGEST, True),
        (COMMIT, COMMIT, False),
        (DIGEST, DIGEST, False),
        (COMMIT, DIGEST, False),
        (COMMIT, "main", False),
        (DIGEST, "", False),
        ("main", "v2", False),
        ("", "", False),
    ],
)
def test_revisions_are_other_weights_where_both_are_told_alike_and_differ(
    one: str, other: str, expected: bool
) -> None:
    assert are_other_weights(one, other) is are_other_weights(other, one) is expected


@pytest.mark.parametrize(("revision", "expected"), [(COMMIT, True), (DIGEST, True), ("main", False), ("", False)])
def test_branch_and_nothing_name_no_weights(revision: str, expected: bool) -> None:
    assert names_weights(revision) is expected
