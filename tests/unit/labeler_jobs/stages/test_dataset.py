import json

import numpy as np
import pyarrow as pa
import pytest

from labeler_jobs.stages.dataset import JoinError, join_labels, labelled_schema
from labeler_jobs.stages.schemas import prefill_schema
from router_service.description import ModelIdentity

SLM, LLM = ModelIdentity("small", "r1", 10, 2, "aa"), ModelIdentity("large", "r2", 12, 8, "aa")
SCHEMA = labelled_schema(SLM, LLM, 3)


def prefilled(query_id: str, different: list[bool]) -> pa.RecordBatch:
    num_rows = len(different)
    return pa.RecordBatch.from_pydict(
        {
            "query_id": [query_id] * num_rows,
            "position": range(num_rows),
            "llm_token_id": [4] * num_rows,
            "slm_token_id": [5 if differs else 4 for differs in different],
            "different": different,
            "hidden_state": list(np.arange(2 * num_rows, dtype=np.float16).reshape(-1, 2)),
            "top_logits": list(np.arange(3 * num_rows, dtype=np.float16).reshape(-1, 3)),
        },
        schema=prefill_schema(2, 3),
    )


def test_join_labels_every_position_of_every_response() -> None:
    batches = [prefilled("a", [False, True, True]), prefilled("b", [True, False])]
    labels = {("a", 1): 1, ("a", 2): 2, ("b", 0): 1}
    table = pa.Table.from_batches(list(join_labels(batches, {"a": "math", "b": "qa"}, labels, SCHEMA)))
    assert table["label"].to_pylist() == [0, 1, 2, 1, 0]
    assert table["domain"].to_pylist() == ["math"] * 3 + ["qa"] * 2
    assert table["slm_token_id"].to_pylist() == [4, 5, 5, 5, 4]
    assert table["hidden_state"].to_pylist()[2] == [4.0, 5.0]
    assert json.loads(table.schema.metadata[b"trivium"])["llm"]["model_id"] == "large"


@pytest.mark.parametrize(
    ("domains", "labels", "message"),
    [
        ({"a": "math"}, {}, "label: query 'a' differs at position 1, which has no verdict"),
        ({"a": "math"}, {("a", 1): 1, ("a", 0): 1}, "label: 2 verdicts for 1 different positions"),
        ({"b": "math"}, {("a", 1): 1}, "domain: query 'a' is not among the responses"),
    ],
)
def test_join_of_shards_that_do_not_fit_is_refused(
    domains: dict[str, str], labels: dict[tuple[str, int], int], message: str
) -> None:
    with pytest.raises(JoinError, match=message):
        list(join_labels([prefilled("a", [False, True])], domains, labels, SCHEMA))
