"""What is refused before a training or a calibration begins, since it could only fail, or mislead, in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from router_service.training.calibrate import Target
from router_service.training.dataset import DatasetError, read_columns
from router_service.training.routing_data import RoutingData
from services.common.model_sizes import ModelSizes

QUERIES_FOLDER = "queries"
"""Beside a dataset: the queries that its tokens answer."""


def check_classes(folder: Path, data: RoutingData) -> None:
    """Refuses a dataset whose rows are all alike: nothing can be learnt from it, and no ranking measured.

    Raises:
        DatasetError: It is one.
    """
    sides: dict[str, Tensor] = {"divergent": data.divergent, "to be routed": data.targets}
    for name, positive in sides.items():
        num_positive = int(positive.sum())
        if num_positive in (0, len(data)):
            raise DatasetError(
                f"{folder}: field 'label': {num_positive} of {len(data)} rows are {name}; both classes are needed, "
                "so label more queries"
            )


def check_logits(folder: Path, data: RoutingData, num_top_logits: int, reader: str) -> None:
    """Refuses rows with another number of logits than are read.

    Args:
        folder: The dataset.
        data: Its rows.
        num_top_logits: How many are read.
        reader: Who reads them, for the message.

    Raises:
        DatasetError: There are others.
    """
    if (width := data.top_logits.size(1)) != num_top_logits:
        raise DatasetError(f"{folder}: field 'top_logits' has {width} columns, {reader} reads {num_top_logits}")


def check_target(target: Target, sizes: ModelSizes) -> None:
    """Refuses a target that needs no router, or that no threshold meets.

    Args:
        target: What a threshold is to be chosen for.
        sizes: Sizes of the three models.

    Raises:
        ValueError: It is one.
    """
    is_budget = target.name == "avg_activated_params_b"
    share = sizes.llm_usage_rate(target.value) if is_budget else target.value
    if not 0.0 < share < 1.0:
        least, most = (sizes.avg_activated_params_b(end) for end in (0.0, 1.0))
        room = f"the pair takes {least:.6g} to {most:.6g}" if is_budget else "it is a share between 0 and 1"
        raise ValueError(
            f"{target.name} can't be {target.value:g}: {room}, and at either end one model writes everything"
        )


def check_disjoint(train: Path, validation: Path) -> None:
    """Refuses datasets that share queries: what is learnt by heart would look like what is understood.

    Queries are compared by their text where it lies beside both datasets, else by id and response.

    Raises:
        DatasetError: They share some.
    """
    if train.resolve() == validation.resolve():
        raise DatasetError(f"{validation}: is the dataset that is learnt from; validation needs other queries")
    texts = [_texts(folder.parent / QUERIES_FOLDER) for folder in (train, validation)]
    if all(texts):
        shared = sorted(texts[1][text] for text in texts[0].keys() & texts[1].keys())
    else:
        shared = sorted(query_id for query_id, _ in set(_responses(train)) & set(_responses(validation)))
    if shared:
        raise DatasetError(
            f"{validation}: shares {len(shared)} queries with {train}, such as {shared[0]!r}; validation needs others"
        )


def _texts(folder: Path) -> dict[str, str]:
    """Ids of queries by their text, spaces aside; empty where they don't lie there."""
    if not folder.is_dir():
        return {}
    try:
        table = pq.read_table(folder, columns=["query_id", "query"])
    except (OSError, pa.ArrowException):
        return {}
    pairs = zip(table["query_id"].to_pylist(), table["query"].to_pylist(), strict=True)
    return {" ".join(str(text).split()): query_id for query_id, text in pairs}


def _responses(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Id and digest of the LLM's response, query by query."""
    table = read_columns(folder, ["query_id", "llm_token_id"])
    if not table.num_rows:
        return
    encoded = table["query_id"].combine_chunks().dictionary_encode()
    token_ids = table["llm_token_id"].to_numpy()
    changes = np.flatnonzero(np.diff(encoded.indices.to_numpy())) + 1
    names = encoded.dictionary.to_pylist()
    numbers = encoded.indices.to_numpy()
    for start, end in zip([0, *changes], [*changes, table.num_rows], strict=True):
        yield names[numbers[start]], hashlib.sha256(token_ids[start:end].tobytes()).digest()
