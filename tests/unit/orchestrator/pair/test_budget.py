import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trivium.v1 import orchestrator_pb2, router_pb2

from services.common.access.keys_file import RoutingLimits
from services.common.errors import InvalidRequest, NotAllowed, SweepMissing
from services.common.model_sizes import ModelSizes
from services.common.threshold_table import SLM_ONLY_THRESHOLD
from services.orchestrator.pair.budget import Budget, Sweep
from services.orchestrator.pair.check import check_pair
from tests.unit.orchestrator.pair.test_check import SHA, make_llm, make_router, make_slm

SIZES = ModelSizes(1_400_000_000, 100_000_000, 32_000_000_000)
BUDGET = Budget(0.6, SIZES, Sweep(((0.75, 0.1), (0.25, 0.3))))


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
    with pytest.raises(SweepMissing, match=f"^{field}: .*no validation sweep.*trivium calibrate"):
        threshold(Budget(0.5, ModelSizes(0, 100_000_000, 32_000_000_000)), **{field: 0.2})


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


def test_sweep_of_a_pair_is_its_routers() -> None:
    pair = check_pair(make_slm(), make_llm(), router(), tokenizer_sha256=SHA, num_tokenizer_ids=100)
    assert pair.sweep == ((0.5, 0.125), (0.25, 0.25))


def test_sweep_of_a_pair_prefers_usage_while_decoding() -> None:
    served = router(decoded_llm_usage_rate=0.5)
    pair = check_pair(make_slm(), make_llm(), served, tokenizer_sha256=SHA, num_tokenizer_ids=100)
    assert pair.sweep == ((0.25, 0.5),)


def _allowed(**limits: float) -> Budget:
    return dataclasses.replace(BUDGET, allowed=RoutingLimits(**limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "fields"),
    [
        # Of the sweep, a usage of 0.1 is a threshold of 0.75.
        ({"max_llm_usage": 0.1}, {"threshold": 0.7}),
        ({"max_llm_usage": 0.1}, {"target_llm_usage": 0.2}),
        ({"max_llm_usage": 0.1}, {"target_avg_params_b": 33.0}),
        ({"min_llm_usage": 0.2}, {"target_llm_usage": 0.1}),
        ({"min_threshold": 0.7}, {"target_llm_usage": 0.3}),
        ({"max_threshold": 0.3}, {"target_llm_usage": 0.1}),
    ],
)
def test_routing_beyond_what_is_allowed_is_denied_however_it_is_asked_for(
    limits: dict[str, float], fields: dict[str, float]
) -> None:
    with pytest.raises(NotAllowed, match=f"^{next(iter(fields))}: "):
        threshold(_allowed(**limits), **fields)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_target_within_what_is_allowed_is_served_as_asked(first: float, second: float, third: float) -> None:
    least, asked, most = sorted((first, second, third))
    budget = _allowed(min_llm_usage=least, max_llm_usage=most)
    assert threshold(budget, target_llm_usage=asked) == threshold(BUDGET, target_llm_usage=asked)


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 0.9])
def test_bound_itself_is_allowed_though_a_request_holds_it_as_float32(value: float) -> None:
    assert threshold(_allowed(min_threshold=value, max_threshold=value), threshold=value) == pytest.approx(value)


def test_default_moves_to_what_is_allowed_and_the_ends_need_no_sweep() -> None:
    assert threshold(_allowed(max_llm_usage=0.1)) == pytest.approx(0.75)
    assert threshold(_allowed(max_threshold=0.5)) == 0.5
    without_sweep = dataclasses.replace(_allowed(max_llm_usage=0.0), sweep=Sweep())
    assert threshold(without_sweep) == SLM_ONLY_THRESHOLD
