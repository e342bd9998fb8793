"""Files of single drafts: the SLM's features, and both models' tokens. Orchestrators write, labelling reads them.

Owns their form: safetensors under the names and types of a labelled dataset's columns, and the pair as metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

PREFIX, SUFFIX = "sample-", ".safetensors"
_METADATA_KEY = "trivium"
_COLUMNS: Mapping[str, tuple[type[np.generic], int]] = {
    "query_id": (np.int64, 1),
    "position": (np.int32, 1),
    "slm_token_id": (np.int32, 1),
    "llm_token_id": (np.int32, 1),
    "hidden_state": (np.float16, 2),
    "top_logits": (np.float16, 2),
}
"""Type and number of dimensions of each column; the first dimension is the drafts'."""


class SampleError(ValueError):
    """A file of drafts can't be used. The message names it, and the column and row where there is one."""


class SampleGone(SampleError):
    """A file of drafts is missing: orchestrators remove the oldest ones."""


@dataclass(frozen=True, slots=True)
class DraftSample:
    """Some drafts.

    Args:
        pair: Identities of "slm" and "llm": model_id, revision, vocab_size, hidden_size and tokenizer_sha256 of each.
        columns: query_id i64 [rows], a random number that drafts of an answer have in common; position i32 [rows] in
            the answer, from 0; slm_token_id and llm_token_id i32 [rows]; hidden_state f16 [rows, hidden] and
            top_logits f16 [rows, logits], both finite.
    """

    pair: Mapping[str, Mapping[str, Any]]
    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        """Counts drafts."""
        return len(self.columns["query_id"])


def write_sample(path: Path, sample: DraftSample) -> None:
    """Writes a file.

    Raises:
        OSError: It can't be written. Nothing of it stays.
    """
    columns = {name: np.ascontiguousarray(sample.columns[name]) for name in _COLUMNS}
    content = save(columns, {_METADATA_KEY: json.dumps(sample.pair, sort_keys=True)})
    try:
        path.write_bytes(content)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def read_sample(path: Path) -> DraftSample:
    """Reads a file.

    Raises:
        SampleGone: It is missing.
        SampleError: It is damaged, or holds something else.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if missing := sorted(_COLUMNS.keys() - set(file.keys())):
                raise SampleError(f"{path}: lacks the column {missing[0]!r}")
            columns = {name: _column(path, file, name) for name in _COLUMNS}
    except FileNotFoundError as error:
        raise SampleGone(f"{path}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise SampleError(f"{path}: not a readable file of drafts: {error}") from error
    num_rows = len(columns["query_id"]) if columns["query_id"].ndim else 0
    for name, (dtype, num_dimensions) in _COLUMNS.items():
        _check(path, name, columns[name], np.dtype(dtype), num_dimensions, num_rows)
    return DraftSample(_pair(path, metadata.get(_METADATA_KEY, "")), columns)


def _column(path: Path, file: Any, name: str) -> NDArray[Any]:
    try:
        column: NDArray[Any] = file.get_tensor(name)
    # What types numpy lacks, it says in several ways.
    except (TypeError, ValueError, AttributeError, KeyError, SafetensorError) as error:
        expected = np.dtype(_COLUMNS[name][0])
        raise SampleError(
            f"{path}: column {name!r}: expected {expected}, got {file.get_slice(name).get_dtype()}"
        ) from error
    return column


def _check(
    path: Path, name: str, values: NDArray[Any], dtype: np.dtype[Any], num_dimensions: int, num_rows: int
) -> None:
    if values.dtype != dtype or values.ndim != num_dimensions or len(values) != num_rows or 0 in values.shape[1:]:
        expected = f"{dtype} [{num_rows}{', any' if num_dimensions > 1 else ''}]"
        raise SampleError(f"{path}: column {name!r}: expected {expected}, got {values.dtype} {list(values.shape)}")
    is_right = np.isfinite(values).all(axis=1) if num_dimensions > 1 else values >= 0
    if len(wrong := np.flatnonzero(~is_right)):
        what = "a value that isn't finite" if num_dimensions > 1 else str(values[wrong[0]])
        raise SampleError(f"{path}: column {name!r}, row {wrong[0]}: holds {what}")


def _pair(path: Path, text: str) -> Mapping[str, Mapping[str, Any]]:
    try:
        pair = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{path}: the metadata don't tell the pair: {error}") from error
    if not isinstance(pair, dict) or not all(isinstance(pair.get(role), dict) for role in ("slm", "llm")):
        raise SampleError(f"{path}: the metadata don't tell the pair")
    return pair
