"""Labelled datasets on disk: their Parquet schema, and reading them into memory.

Owns what the labelling road hands to training, and every check of it. Needs pyarrow, so the router service doesn't
import it.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from router_service.checkpoint_files import CheckpointError
from router_service.description import ModelIdentity, read_identity
from router_service.model import Objective
from router_service.training.routing_data import DIVERGENT, NEUTRAL, RoutingData

METADATA_KEY = b"trivium"
"""Schema metadata of every shard: JSON with the identities of "slm" and "llm"."""
_FEATURES = ("hidden_state", "top_logits")
_SHARD = re.compile(r"part-(\d{5})-of-(\d{5})\.parquet")


class DatasetError(ValueError):
    """A labelled dataset can't be used. The message names the file, and the field and row where there is one."""


@dataclass(frozen=True)
class LabelledPair:
    """The models that a dataset was labelled with."""

    slm: ModelIdentity
    llm: ModelIdentity


def dataset_schema(hidden_size: int, num_top_logits: int) -> pa.Schema:
    """Schema of a labelled dataset's shards.

    Args:
        hidden_size: Width of the SLM's hidden state.
        num_top_logits: How many logits are stored per token.

    Returns:
        One row per response token. `label` is 0 identical, 1 neutral, 2 divergent. The writer adds the pair as schema
        metadata `METADATA_KEY`.
    """
    return pa.schema(
        [
            pa.field("query_id", pa.string(), nullable=False),
            pa.field("domain", pa.string(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("slm_token_id", pa.int32(), nullable=False),
            pa.field("llm_token_id", pa.int32(), nullable=False),
            pa.field("label", pa.int8(), nullable=False),
            pa.field("hidden_state", pa.list_(pa.float16(), hidden_size), nullable=False),
            pa.field("top_logits", pa.list_(pa.float16(), num_top_logits), nullable=False),
        ]
    )


def load_routing_data(folder: str | Path, objective: Objective) -> RoutingData:
    """Reads a dataset into memory, its features in half precision as they are stored.

    Args:
        folder: Holds all shards of the dataset.
        objective: Which labels are to be routed.

    Returns:
        Every row of every shard, in order of the shards.

    Raises:
        DatasetError: A shard is missing, damaged or of another pair, or a row can't be right; the message names file,
            field and row.
    """
    shards = _shards(Path(folder))
    pair, schema = _describe(shards[0])
    num_rows = sum(_num_rows(path) for path in shards)
    if num_rows == 0:
        raise DatasetError(f"{folder}: the dataset has no rows")
    features = {
        name: torch.empty((num_rows, schema.field(name).type.list_size), dtype=torch.float16) for name in _FEATURES
    }
    token_ids, labels = torch.empty(num_rows, dtype=torch.int64), torch.empty(num_rows, dtype=torch.int8)
    start = 0
    for path in shards:
        for batch, first_row in _checked_batches(path, pair, schema):
            end = start + batch.num_rows
            token_ids[start:end] = torch.tensor(_numbers(path, batch, "slm_token_id", first_row, pair.slm.vocab_size))
            labels[start:end] = torch.tensor(_numbers(path, batch, "label", first_row, DIVERGENT + 1))
            for name, values in features.items():
                values[start:end] = torch.tensor(_finite(path, batch, name, first_row))
            start = end
    return RoutingData(**features, token_ids=token_ids, labels=labels, objective=objective)


def labelled_pair(folder: str | Path) -> LabelledPair:
    """Tells which models a dataset was labelled with.

    Raises:
        DatasetError: There is no dataset, or its first shard doesn't say.
    """
    return _describe(_shards(Path(folder))[0])[0]


def dataset_statistics(folder: str | Path) -> dict[str, dict[str, float]]:
    """Counts queries, tokens and labels of a dataset: all of it as "all", and each domain by its name.

    Source: arXiv:2505.21600 Table 1.
    """
    table = read_columns(folder, ["query_id", "domain", "label"])
    statistics = {"all": _count(table)}
    for domain in sorted(pc.unique(table["domain"]).to_pylist()):
        statistics[domain] = _count(table.filter(pc.equal(table["domain"], domain)))
    return statistics


def read_columns(folder: str | Path, columns: list[str]) -> pa.Table:
    """Some columns of all shards of a dataset, in order.

    Raises:
        DatasetError: There is no dataset, or it can't be read.
    """
    return pa.concat_tables([_read_columns(path, columns) for path in _shards(Path(folder))])


def _count(table: pa.Table) -> dict[str, float]:
    num_different = pc.sum(pc.greater_equal(table["label"], NEUTRAL)).as_py()
    num_divergent = pc.sum(pc.equal(table["label"], DIVERGENT)).as_py()
    return {
        "num_queries": pc.count_distinct(table["query_id"]).as_py(),
        "num_tokens": table.num_rows,
        "num_different": num_different,
        "num_divergent": num_divergent,
        "different_rate": num_different / table.num_rows,
        "divergent_rate": num_divergent / table.num_rows,
    }


def _shards(folder: Path) -> list[Path]:
    """All shards, in order; a file of another name is none, so one that is being written aside isn't read."""
    found = {
        int(match[1]): (path, int(match[2])) for path in folder.glob("*") if (match := _SHARD.fullmatch(path.name))
    }
    if not found:
        raise DatasetError(f"{folder}: no shard part-00000-of-….parquet of a labelled dataset")
    [*totals] = {total for _, total in found.values()}
    if len(totals) > 1:
        raise DatasetError(f"{folder}: shards of {' and of '.join(map(str, sorted(totals)))} lie together")
    for index in range(totals[0]):
        if index not in found:
            raise DatasetError(f"{folder}: lacks the shard part-{index:05}-of-{totals[0]:05}.parquet")
    return [found[index][0] for index in range(totals[0])]


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path}: not a readable Parquet file, perhaps cut off: {error}") from error


def _num_rows(path: Path) -> int:
    with _open(path) as file:
        num_rows: int = file.metadata.num_rows
        return num_rows


def _read_columns(path: Path, columns: list[str]) -> pa.Table:
    with _open(path) as file:
        return file.read(columns=columns)


def _describe(path: Path) -> tuple[LabelledPair, pa.Schema]:
    """The pair of a shard, and its schema after a check."""
    with _open(path) as file:
        schema = file.schema_arrow
    widths = {}
    for name in _FEATURES:
        if name not in schema.names:
            raise DatasetError(f"{path}: lacks the field {name!r}")
        if not pa.types.is_fixed_size_list(schema.field(name).type):
            raise DatasetError(f"{path}: field {name!r} is {schema.field(name).type}, expected a fixed-size list")
        widths[name] = schema.field(name).type.list_size
    expected = dataset_schema(widths["hidden_state"], widths["top_logits"])
    for field in expected:
        if field.name not in schema.names:
            raise DatasetError(f"{path}: lacks the field {field.name!r}")
        if (found := schema.field(field.name).type) != field.type:
            raise DatasetError(f"{path}: field {field.name!r} is {found}, expected {field.type}")
    pair = _pair(path, (schema.metadata or {}).get(METADATA_KEY))
    if pair.slm.hidden_size != widths["hidden_state"]:
        raise DatasetError(
            f"{path}: field 'hidden_state' has {widths['hidden_state']} columns, "
            f"the SLM {pair.slm.model_id!r} has a hidden size of {pair.slm.hidden_size}"
        )
    return pair, expected


def _pair(path: Path, metadata: bytes | None) -> LabelledPair:
    if metadata is None:
        raise DatasetError(
            f"{path}: the schema's metadata lack {METADATA_KEY.decode()!r}, the pair that was labelled"
        )
    try:
        fields = json.loads(metadata)
        return LabelledPair(*(read_identity(path, f"metadata.{role}", fields.get(role)) for role in ("slm", "llm")))
    except (AttributeError, json.JSONDecodeError, CheckpointError) as error:
        raise DatasetError(f"{path}: the schema's metadata don't describe a pair: {error}") from error


def _checked_batches(path: Path, pair: LabelledPair, schema: pa.Schema) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Row groups of a shard with the number of their first row; a shard unlike the first is an error."""
    found_pair, found_schema = _describe(path)
    if found_pair != pair or found_schema != schema:
        raise DatasetError(f"{path}: was labelled with another pair than the shards before it")
    columns = ["slm_token_id", "label", *_FEATURES]
    first_row = 0
    with _open(path) as file:
        try:
            for batch in file.iter_batches(columns=columns):
                yield batch, first_row
                first_row += batch.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{path}: can't be read after row {first_row}: {error}") from error


def _numbers(path: Path, batch: pa.RecordBatch, name: str, first_row: int, end: int) -> NDArray[np.int64]:
    """An integer column, each of [0, end)."""
    column = batch.column(name)
    _no_nulls(path, column, name, first_row)
    values: NDArray[np.int64] = column.to_numpy()
    if len(wrong := np.flatnonzero((values < 0) | (values >= end))):
        raise DatasetError(
            f"{path}: field {name!r}, row {first_row + wrong[0]}: {values[wrong[0]]} is outside [0, {end})"
        )
    return values


def _finite(path: Path, batch: pa.RecordBatch, name: str, first_row: int) -> NDArray[np.float16]:
    """A column of fixed-size lists as f16 [rows, width], all finite."""
    column = batch.column(name)
    _no_nulls(path, column, name, first_row)
    flat = column.flatten()
    if flat.null_count:
        raise DatasetError(f"{path}: field {name!r}, rows from {first_row} on: a list holds nulls")
    values: NDArray[np.float16] = flat.to_numpy().reshape(batch.num_rows, -1)
    if len(wrong := np.flatnonzero(~np.isfinite(values).all(axis=1))):
        raise DatasetError(f"{path}: field {name!r}, row {first_row + wrong[0]}: holds a value that is not finite")
    return values


def _no_nulls(path: Path, column: pa.Array, name: str, first_row: int) -> None:
    if column.null_count:
        row = first_row + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DatasetError(f"{path}: field {name!r}, row {row}: is null")
