"""Stage 4: features and labels of every response token in one table.

Owns the join; the columns are `router_service.training.dataset`'s.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from labeler_jobs.verifiers.verifier import Label
from router_service.description import ModelIdentity
from router_service.training.dataset import METADATA_KEY, dataset_schema


class JoinError(ValueError):
    """Shards of one run don't fit together. The message names field, query and position."""


def labelled_schema(
    slm: ModelIdentity, llm: ModelIdentity, num_top_logits: int, *, verified: bool = True
) -> pa.Schema:
    """Schema of a dataset's shards, with the pair in its metadata.

    Args:
        slm: The small model.
        llm: The large model.
        num_top_logits: How many logits are kept per token.
        verified: Whether a verifier told neutral differences from divergent ones.
    """
    told: dict[str, object] = {"slm": dataclasses.asdict(slm), "llm": dataclasses.asdict(llm)}
    if not verified:
        told["verified"] = False
    return dataset_schema(slm.hidden_size, num_top_logits).with_metadata(
        {METADATA_KEY: json.dumps(told, sort_keys=True).encode()}
    )


def join_labels(
    prefilled: Iterable[pa.RecordBatch],
    domains: Mapping[str, str],
    labels: Mapping[tuple[str, int], int],
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    """Joins features with labels.

    Args:
        prefilled: Rows of `schemas.prefill_schema`.
        domains: Domain of every query.
        labels: Label of every different position, by query id and position.
        schema: Of the dataset.

    Yields:
        Rows of the dataset, in order.

    Raises:
        JoinError: A query has no domain, a different position no label, or a label no different position.
    """
    num_joined = 0
    for batch in prefilled:
        query_ids, positions = batch.column("query_id").to_pylist(), batch.column("position").to_pylist()
        joined = np.full(batch.num_rows, Label.IDENTICAL, dtype=np.int8)
        for row in np.flatnonzero(batch.column("different").to_numpy(zero_copy_only=False)):
            place = (query_ids[row], positions[row])
            if place not in labels:
                raise JoinError(f"label: query {place[0]!r} differs at position {place[1]}, which has no verdict")
            joined[row] = labels[place]
            num_joined += 1
        if unknown := sorted(set(query_ids) - domains.keys()):
            raise JoinError(f"domain: query {unknown[0]!r} is not among the responses")
        columns = {
            "domain": pa.array([domains[query_id] for query_id in query_ids], pa.string()),
            "label": pa.array(joined),
        }
        arrays = [columns[name] if name in columns else batch.column(name) for name in schema.names]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
    if num_joined != len(labels):
        raise JoinError(f"label: {len(labels)} verdicts for {num_joined} different positions")
