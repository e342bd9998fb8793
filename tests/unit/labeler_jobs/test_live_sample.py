"""Datasets of what orchestrators keep of live traffic."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file

from labeler_jobs.live_sample import collect_samples, find_samples
from router_service.description import ModelIdentity
from router_service.training.dataset import dataset_statistics, labelled_pair, load_routing_data
from services.common.draft_sample import DraftSample, SampleError, read_sample, write_sample

SLM, LLM = ModelIdentity("small", "r1", 10, 2, "aa"), ModelIdentity("large", "", 12, 8, "aa")
PAIR = {"slm": dataclasses.asdict(SLM), "llm": dataclasses.asdict(LLM)}


def columns(num_rows: int, num_queries: int = 5, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "query_id": rng.integers(0, num_queries, num_rows).astype(np.int64),
        "position": rng.integers(0, 50, num_rows).astype(np.int32),
        "slm_token_id": rng.integers(0, 10, num_rows).astype(np.int32),
        "llm_token_id": rng.integers(0, 10, num_rows).astype(np.int32),
        "hidden_state": rng.normal(size=(num_rows, 2)).astype(np.float16),
        "top_logits": rng.normal(size=(num_rows, 3)).astype(np.float16),
    }


def write(folder: Path, *samples: dict[str, NDArray[Any]], pair: Any = PAIR) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for index, sample in enumerate(samples):
        write_sample(folder / f"sample-{len(list(folder.iterdir()))}{index}.safetensors", DraftSample(pair, sample))
    return find_samples([folder])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(2, 40), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_every_draft_is_in_one_of_the_datasets_with_what_the_models_said(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], num_queries: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("sample")
    samples = [columns(size, num_queries, index) for index, size in enumerate(sizes)]
    paths = write(folder / "kept", *samples)
    out, validation = folder / "out", folder / "validation"
    try:
        counts = collect_samples(paths, out, validation, validation_share=0.5, seed=seed)
    except SampleError:
        # All answers may fall on one side.
        assert sorted(path.name for path in folder.iterdir()) == ["kept"]
        return
    rows = np.concatenate([sample["slm_token_id"] for sample in samples])
    different = sum(int((sample["slm_token_id"] != sample["llm_token_id"]).sum()) for sample in samples)
    assert sum(each.num_tokens for each in counts.values()) == len(rows)
    assert sum(each.num_divergent for each in counts.values()) == different
    found = [load_routing_data(each, "divergent") for each in (out, validation)]
    assert sorted(np.concatenate([data.token_ids for data in found]).tolist()) == sorted(rows.tolist())
    assert sum(int(data.targets.sum()) for data in found) == different
    hidden = np.concatenate([data.hidden_state.numpy() for data in found])
    expected = np.concatenate([sample["hidden_state"] for sample in samples])
    assert sorted(map(tuple, hidden.tolist())) == sorted(map(tuple, expected.tolist()))
    queries = np.concatenate([sample["query_id"] for sample in samples])
    assert sum(each.num_queries for each in counts.values()) == len(set(queries.tolist()))


def test_dataset_tells_its_pair_and_that_nobody_has_verified_it(tmp_path: Path) -> None:
    paths = write(tmp_path / "kept", columns(20))
    collect_samples(paths, tmp_path / "out")
    pair = labelled_pair(tmp_path / "out")
    assert (pair.slm, pair.llm) == (SLM, LLM)
    assert dataset_statistics(tmp_path / "out").keys() == {"all", "live"}


def test_same_seed_holds_back_the_same_answers_and_another_one_others(tmp_path: Path) -> None:
    paths = write(tmp_path / "kept", columns(400, num_queries=200))

    def held_back(name: str, seed: int) -> list[int]:
        validation = tmp_path / f"{name}-validation"
        collect_samples(paths, tmp_path / name, validation, validation_share=0.3, seed=seed)
        return load_routing_data(validation, "divergent").token_ids.tolist()

    assert held_back("a", 1) == held_back("b", 1) != held_back("c", 2)


def test_dataset_that_is_there_stays(tmp_path: Path) -> None:
    paths = write(tmp_path / "kept", columns(20))
    collect_samples(paths, tmp_path / "out")
    with pytest.raises(SampleError, match="holds a dataset already"):
        collect_samples(paths, tmp_path / "out")


def test_folder_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=f"^{tmp_path}: holds no sample-"):
        find_samples([tmp_path])


HALVES, INTS = np.float16, np.int32


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("slm_token_id", np.array([1, 2, 10, 3], INTS), ", row 2: 10 is outside the vocabulary"),
        ("llm_token_id", np.array([1, -2, 1, 3], INTS), ", row 1: holds -2"),
        ("hidden_state", np.full((4, 2), np.nan, HALVES), ", row 0: holds a value that isn't"),
        ("top_logits", np.full((4, 3), np.inf, HALVES), ", row 0: holds a value that isn't"),
        ("hidden_state", np.zeros((4, 3), HALVES), " has 3 values a row"),
        ("hidden_state", np.zeros((4, 2), np.float32), r": expected float16 \[4, any\], got float32"),
        ("position", np.zeros(3, INTS), r": expected int32 \[4\], got int32 \[3\]"),
        ("top_logits", np.zeros((4, 0), HALVES), r": expected float16 \[4, any\], got float16 \[4, 0\]"),
    ],
)
def test_what_a_file_must_not_hold_is_told_by_column_and_row(
    tmp_path: Path, column: str, values: NDArray[Any], message: str
) -> None:
    paths = write(tmp_path / "kept", columns(4) | {column: values})
    with pytest.raises(SampleError, match=f"^{paths[0]}: column '{column}'{message}"):
        collect_samples(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_file_of_another_pair_is_named(tmp_path: Path) -> None:
    other = PAIR | {"llm": dataclasses.asdict(dataclasses.replace(LLM, vocab_size=13))}
    write(tmp_path / "kept", columns(4))
    paths = write(tmp_path / "kept", columns(4), pair=other)
    with pytest.raises(SampleError, match="is of another pair than"):
        collect_samples(paths, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"\xff" * 8 + b"{}"])
def test_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sample-1.safetensors"
    path.write_bytes(content)
    with pytest.raises(SampleError, match=f"^{path}: not a readable file of drafts"):
        read_sample(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_column_of_a_type_that_numpy_lacks_is_named(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: torch.from_numpy(values) for name, values in columns(4).items()}
    save_file(tensors | {"hidden_state": tensors["hidden_state"].to(dtype)}, tmp_path / "sample-1.safetensors")
    with pytest.raises(SampleError, match=r"sample-1.safetensors: column 'hidden_state': expected float16, got "):
        read_sample(tmp_path / "sample-1.safetensors")


def test_file_that_an_orchestrator_removes_meanwhile_is_left_out(tmp_path: Path) -> None:
    paths = write(tmp_path / "kept", *(columns(10, seed=seed) for seed in range(3)))
    paths[0].unlink()
    [counts] = collect_samples(paths, tmp_path / "out").values()
    assert counts.num_tokens == 20
    assert len(load_routing_data(tmp_path / "out", "divergent").token_ids) == 20


def test_file_is_written_in_its_place_and_goes_where_the_disk_is_full(tmp_path: Path) -> None:
    path, full = tmp_path / "sample-1.partial", tmp_path / "sample-2.partial"
    path.touch()
    inode = path.stat().st_ino
    write_sample(path, DraftSample(PAIR, columns(4)))
    assert path.stat().st_ino == inode
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_sample(full, DraftSample(PAIR, columns(4)))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("pair", [{}, {"slm": 1, "llm": {}}, {"slm": {}, "llm": {}}])
def test_file_that_does_not_tell_its_pair_is_named(tmp_path: Path, pair: Any) -> None:
    paths = write(tmp_path / "kept", columns(4), pair=pair)
    with pytest.raises(SampleError, match=f"^{paths[0]}: "):
        collect_samples(paths, tmp_path / "out")
