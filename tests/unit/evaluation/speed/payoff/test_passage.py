"""What the orchestrator adds is found again in speeds that the model itself predicts with it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.speed.payoff.model import predict
from evaluation.speed.payoff.passage import NUM_PASSAGES, passages, with_passages
from evaluation.speed.payoff.times import StepTime, StepTimes
from evaluation.speed.payoff.trace import RuleTraces
from tests.unit.evaluation.speed.payoff.test_model import RULES, TIMES, chosen, trace

TEXTS = (trace([0.1] * 40, [index % 7 != 0 for index in range(40)]), trace([0.9] * 25))
TRACES = {name: RuleTraces(chosen(name), TEXTS) for name in ("slm", "llm")}


def speeds(times: StepTimes, depth: int, *, has_router: bool) -> dict[str, list[float]]:
    def speed(rule: RuleTraces, depth: int) -> float:
        return predict(rule, times, depth=depth).tokens_per_s

    found = passages(RULES, depth, has_router=has_router)
    assert len(found) == NUM_PASSAGES - (not has_router)
    return {name: [speed(RuleTraces(each.rule, TEXTS), each.depth)] for name, each in found.items()}


@given(*(st.floats(0, 0.003) for _ in range(3)), st.booleans())
@settings(deadline=None)
def test_what_each_message_costs_is_found(draft_s: float, score_s: float, answer_s: float, has_router: bool) -> None:
    true = replace(TIMES, draft_s=draft_s, answer_s=answer_s, score_s=score_s if has_router else 0.0)
    settings_ = passages(RULES, 4, has_router=has_router)
    found = with_passages(TIMES, TRACES, settings_, speeds(true, 4, has_router=has_router), 0.0)
    got = (found.draft_s, found.answer_s, found.score_s)
    assert got == pytest.approx((true.draft_s, true.answer_s, true.score_s), abs=1e-9)


@given(st.floats(1, 3))
@settings(deadline=None)
def test_crowding_is_found_where_the_steps_are_all_there_is(crowding: float) -> None:
    steps = replace(TIMES, slm_hop_s=0.0)
    measured = speeds(replace(steps, slm_crowding=crowding), 12, has_router=True)
    found = with_passages(steps, TRACES, passages(RULES, 12, has_router=True), measured, 0.0)
    assert found.slm_crowding == pytest.approx(crowding, rel=0.01)
    assert found.llm_crowding == pytest.approx(1.0, rel=0.05)


@given(st.floats(1, 3))
@settings(deadline=None)
def test_crowding_of_an_llm_that_is_all_there_is_to_wait_for_is_found(crowding: float) -> None:
    free = replace(TIMES, slm_step=StepTime.constant(1e-6), slm_hop_s=0.0)
    measured = speeds(replace(free, llm_crowding=crowding), 12, has_router=False)
    found = with_passages(free, TRACES, passages(RULES, 12, has_router=False), measured, 0.0)
    assert found.llm_crowding == pytest.approx(crowding, rel=0.05)


def test_speeds_above_the_prediction_add_nothing() -> None:
    settings_ = passages(RULES, 4, has_router=True)
    fast = {name: [1e6] for name in settings_}
    assert with_passages(TIMES, TRACES, settings_, fast, 0.0) == TIMES


def test_median_of_the_rounds_counts() -> None:
    settings_ = passages(RULES, 4, has_router=False)
    true = speeds(replace(TIMES, draft_s=0.001), 4, has_router=False)
    noisy = {name: [1.0, each, 1e6] for name, [each] in true.items()}
    assert with_passages(TIMES, TRACES, settings_, noisy, 0.0).draft_s == pytest.approx(0.001)
