import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from router_service.description import ModelIdentity
from router_service.training.dataset import (
    METADATA_KEY,
    DatasetError,
    dataset_statistics,
    labelled_pair,
    load_routing_data,
)
from router_service.training.routing_data import RoutingData
from tests.unit.router_service.made import EMBEDDING, HIDDEN, as_lists, made_data, made_table, write_dataset

DATA = made_data(100, seed=1)
SLM = ModelIdentity("slm", "r1", vocab_size=11, hidden_size=HIDDEN, tokenizer_sha256="00")
PAIR = {"slm": SLM, "llm": ModelIdentity("llm", "r2", vocab_size=11, hidden_size=16, tokenizer_sha256="00")}
SECOND = "part-00001-of-00002.parquet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", made_table(DATA, PAIR))


def test_load_routing_data_gives_every_row_of_every_shard_in_order(folder: Path) -> None:
    loaded = load_routing_data(folder, "divergent")
    assert torch.equal(loaded.hidden_state, DATA.hidden_state.half())
    assert torch.equal(loaded.top_logits, DATA.top_logits.half())
    assert torch.equal(loaded.token_ids, DATA.token_ids)
    assert torch.equal(loaded.labels, DATA.labels)


def test_load_routing_data_objective_decides_the_targets_and_not_what_is_divergent(folder: Path) -> None:
    divergent, different = (load_routing_data(folder, name) for name in ("divergent", "different"))
    assert torch.equal(divergent.targets, DATA.labels == 2)
    assert torch.equal(different.targets, DATA.labels >= 1)
    assert torch.equal(different.divergent, divergent.divergent)
    assert different.targets.sum() > divergent.targets.sum() > 0


def test_labelled_pair_is_what_the_metadata_say(folder: Path) -> None:
    pair = labelled_pair(folder)
    assert {"slm": pair.slm, "llm": pair.llm} == PAIR


def test_dataset_statistics_count_all_and_each_domain(folder: Path) -> None:
    statistics = dataset_statistics(folder)
    assert list(statistics) == ["all", "code", "math"]
    assert (statistics["all"]["num_queries"], statistics["math"]["num_queries"]) == (10, 5)
    for name in ("num_tokens", "num_different", "num_divergent"):
        assert statistics["all"][name] == statistics["code"][name] + statistics["math"][name]
    assert statistics["all"]["divergent_rate"] == pytest.approx((DATA.labels == 2).float().mean().item())


def test_load_routing_data_ignores_a_shard_that_is_being_written_aside(folder: Path) -> None:
    (folder / "part-00001-of-00002.parquet.tmp").write_bytes(b"half a shard")
    assert len(load_routing_data(folder, "divergent")) == 100


def test_load_routing_data_missing_shard_is_named(folder: Path) -> None:
    (folder / SECOND).unlink()
    with pytest.raises(DatasetError, match=f"lacks the shard {SECOND}"):
        load_routing_data(folder, "divergent")


def test_load_routing_data_shards_of_two_runs_are_refused(folder: Path) -> None:
    (folder / SECOND).rename(folder / "part-00001-of-00003.parquet")
    with pytest.raises(DatasetError, match="shards of 2 and of 3 lie together"):
        load_routing_data(folder, "divergent")


def test_load_routing_data_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no shard"):
        load_routing_data(tmp_path, "divergent")


def test_load_routing_data_dataset_without_rows_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, made_table(DATA, PAIR).slice(0, 0))
    with pytest.raises(DatasetError, match="no rows"):
        load_routing_data(tmp_path, "divergent")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_load_routing_data_shard_cut_off_is_named(folder: Path, kept: float) -> None:
    content = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DatasetError, match=SECOND):
        load_routing_data(folder, "divergent")


def test_load_routing_data_damaged_pages_are_named(folder: Path) -> None:
    content = bytearray((folder / SECOND).read_bytes())
    content[4:2000] = b"\xff" * 1996
    (folder / SECOND).write_bytes(content)
    with pytest.raises(DatasetError, match=SECOND):
        load_routing_data(folder, "divergent")


def with_value(values: list[Any], row: int, value: object) -> list[Any]:
    return [*values[:row], value, *values[row + 1 :]]


def not_finite(values: torch.Tensor, row: int) -> pa.Array:
    broken = values.clone()
    broken[row, 2] = float("nan")
    return as_lists(broken)


LABELS, TOKENS = DATA.labels.tolist(), DATA.token_ids.tolist()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": pa.array(with_value(LABELS, 77, 3), pa.int8())}, f"{SECOND}: field 'label', row 27: 3 is outside"),
        ({"label": pa.array(with_value(LABELS, 77, -1), pa.int8())}, "field 'label', row 27: -1 is outside"),
        ({"label": pa.array(with_value(LABELS, 77, None), pa.int8())}, "field 'label', row 27: is null"),
        (
            {"slm_token_id": pa.array(with_value(TOKENS, 95, 11), pa.int32())},
            r"field 'slm_token_id', row 45: 11 is outside \[0, 11\)",
        ),
        ({"hidden_state": not_finite(DATA.hidden_state, 91)}, "field 'hidden_state', row 41: holds a value"),
        ({"top_logits": not_finite(DATA.top_logits, 50)}, "field 'top_logits', row 0: holds a value"),
        ({"label": pa.array(LABELS, pa.int64())}, "field 'label' is int64, expected int8"),
        ({"top_logits": pa.array(np.zeros((100, 5)).tolist())}, "field 'top_logits' is list.*, expected a fixed"),
        ({"hidden_state": as_lists(torch.zeros(100, 4))}, "'hidden_state' has 4 columns, the SLM 'slm' has .* 6"),
    ],
)
def test_load_routing_data_wrong_value_names_file_field_and_row(
    tmp_path: Path, columns: dict[str, pa.Array], message: str
) -> None:
    write_dataset(tmp_path, made_table(DATA, PAIR, **columns))
    with pytest.raises(DatasetError, match=message):
        load_routing_data(tmp_path, "divergent")


@pytest.mark.parametrize("name", ["query_id", "label", "hidden_state"])
def test_load_routing_data_missing_field_is_named(tmp_path: Path, name: str) -> None:
    write_dataset(tmp_path, made_table(DATA, PAIR).drop_columns([name]))
    with pytest.raises(DatasetError, match=f"lacks the field '{name}'"):
        load_routing_data(tmp_path, "divergent")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "metadata lack 'trivium'"),
        ({METADATA_KEY: b"{"}, "don't describe a pair"),
        ({METADATA_KEY: b"[]"}, "don't describe a pair"),
        ({METADATA_KEY: json.dumps({"slm": {"model_id": "slm"}}).encode()}, "lacks the field 'revision'"),
    ],
)
def test_load_routing_data_pair_that_is_not_described_is_refused(
    tmp_path: Path, metadata: dict[bytes, bytes], message: str
) -> None:
    write_dataset(tmp_path, made_table(DATA, PAIR).replace_schema_metadata(metadata))
    with pytest.raises(DatasetError, match=message):
        load_routing_data(tmp_path, "divergent")


def test_load_routing_data_shard_of_another_pair_is_refused(folder: Path) -> None:
    other = PAIR | {"llm": ModelIdentity("llm", "r3", 11, 16, "00")}
    pq.write_table(made_table(DATA, other), folder / SECOND)
    with pytest.raises(DatasetError, match=f"{SECOND}: was labelled with another pair"):
        load_routing_data(folder, "divergent")


def test_routing_data_of_unequal_length_is_refused() -> None:
    with pytest.raises(ValueError, match="token_ids has 3 rows"):
        RoutingData(
            torch.zeros(4, 6), torch.zeros(4, 5), torch.zeros(3, dtype=torch.long), torch.zeros(4, dtype=torch.int8)
        )


def test_batches_cover_every_row_once_with_its_embedding() -> None:
    data = made_data(10, seed=4)
    seen = []
    for (hidden_state, _, embedding), _ in data.batches(EMBEDDING, 4, torch.Generator().manual_seed(0)):
        for row, given in zip(hidden_state, embedding, strict=True):
            at = int((data.hidden_state == row).all(dim=1).nonzero())
            assert torch.equal(given, EMBEDDING[data.token_ids[at]])
            seen.append(at)
    assert sorted(seen) == list(range(10))
