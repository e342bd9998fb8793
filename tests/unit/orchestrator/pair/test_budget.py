from typing import Any

import pytest
from trivium.v1 import orchestrator_pb2, router_pb2

from services.common.errors import InvalidRequest, SweepMissing
from services.common.model_sizes import ModelSizes
from services.common.threshold_table import SLM_ONLY_THRESHOLD
from services.orchestrator.pair.budget import Budget
from services.orchestrator.pair.check import check_pair
from tests.unit.orchestrator.pair.test_check import SHA, make_llm, make_router, make_slm

BUDGET = Budget(0.6, sweep=((0.75, 0.1), (0.25, 0.3)), sizes=ModelSizes(1_400_000_000, 100_000_000, 32_000_000_000))


def threshold(budget: Budget = BUDGET, **fields: Any) -> float:
    return budget.threshold(orchestrator_pb2.GenerateRequest(**fields))


def test_threshold_of_a_request_that_says_nothing_is_the_default() -> None:
    assert threshold() == 0.6


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"threshold": 0.0}, 0.0),
        ({"threshold": 2.0}, 2.0),
        ({"target_llm_usage": 0.0}, SLM_ONLY_THRESHOLD),
        ({"target_llm_usage": 0.1}, 0.75),
        ({"target_llm_usage": 0.2}, 0.5),
        ({"target_llm_usage": 1.0}, 0.0),
        ({"target_avg_params_b": 1.5}, SLM_ONLY_THRESHOLD),
        ({"target_avg_params_b": 1.5 + 32.0 * 0.2}, 0.5),
        ({"target_avg_params_b": 33.5}, 0.0),
    ],
)
def test_threshold_of_a_target_comes_from_the_sweep(fields: dict[str, Any], expected: float) -> None:
    assert threshold(**fields) == pytest.approx(expected, abs=1e-6)


def test_threshold_of_a_target_can_be_asked_for_again_as_usage_reports_it() -> None:
    resolved = threshold(target_llm_usage=0.123)
    assert orchestrator_pb2.Usage(threshold=resolved).threshold == resolved


@pytest.mark.parametrize("field", ["target_llm_usage", "target_avg_params_b"])
def test_threshold_of_a_target_without_a_sweep_names_the_field(field: str) -> None:
    with pytest.raises(SweepMissing, match=f"^{field}: .*no validation sweep"):
        threshold(Budget(0.5, sizes=ModelSizes(0, 100_000_000, 32_000_000_000)), **{field: 0.2})


def test_threshold_of_too_small_a_budget_tells_what_is_possible() -> None:
    with pytest.raises(InvalidRequest, match=r"^target_avg_params_b: must be in \[1.5, 33.5\].*; got 1.2"):
        threshold(target_avg_params_b=1.2)


def test_last_of_two_fields_on_the_wire_counts() -> None:
    first = orchestrator_pb2.GenerateRequest(threshold=0.1).SerializeToString()
    second = orchestrator_pb2.GenerateRequest(target_llm_usage=0.1).SerializeToString()
    request = orchestrator_pb2.GenerateRequest.FromString(first + second)
    assert BUDGET.threshold(request) == 0.75


def router(**decoded: float) -> router_pb2.RouterInfo:
    info = make_router()
    info.threshold_table.add(threshold=0.5, llm_usage_rate=0.125)
    info.threshold_table.add(threshold=0.25, llm_usage_rate=0.25, **decoded)
    return info


def test_budget_of_a_pair_is_its_sweep_and_sizes() -> None:
    pair = check_pair(make_slm(), make_llm(), router(), tokenizer_sha256=SHA, num_tokenizer_ids=100)
    budget = Budget.of(pair)
    assert budget.sweep == ((0.5, 0.125), (0.25, 0.25))
    assert budget.sizes == pair.sizes


def test_budget_of_a_pair_prefers_usage_while_decoding() -> None:
    served = router(decoded_llm_usage_rate=0.5)
    budget = Budget.of(check_pair(make_slm(), make_llm(), served, tokenizer_sha256=SHA, num_tokenizer_ids=100))
    assert budget.sweep == ((0.25, 0.5),)
