from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from services.engines.sglang.rows import pack_row, unpack_rows


def test_rows_that_follow_each_other_come_apart_again() -> None:
    features = np.random.default_rng(0).standard_normal((3, 100 + 48)).astype(np.float32)
    rows = unpack_rows(b"".join(pack_row(7, 20 + row, features[row]) for row in range(3)), 3)
    assert [(row.num_steps, row.num_rows) for row in rows] == [(7, 20), (7, 21), (7, 22)]
    np.testing.assert_array_equal([row.top_logits for row in rows], features[:, :100])
    np.testing.assert_array_equal([row.hidden_state for row in rows], features[:, 100:])


def test_row_without_features_has_counters_only() -> None:
    (row,) = unpack_rows(pack_row(1, 2, None), 1)
    assert (row.num_steps, row.num_rows) == (1, 2)
    assert len(row.top_logits) == len(row.hidden_state) == 0


def test_no_rows_are_no_rows() -> None:
    assert unpack_rows(b"", 0) == []
