from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.speed.payoff.model import predict, predict_plain
from evaluation.speed.payoff.times import StepTime, StepTimes
from evaluation.speed.payoff.trace import RuleTraces, Trace
from services.rules.chosen import ChosenRule
from services.rules.registry import Rules

RULES = Rules()
TIMES = StepTimes(
    slm_step=StepTime(((1, 0.001), (8, 0.002))),
    slm_hop_s=0.0005,
    slm_prefill=StepTime.constant(0.0),
    router=StepTime.constant(0.0007),
    llm_pass=StepTime(((1, 0.020), (65, 0.021))),
    llm_streams=StepTime(((1, 0.020), (8, 0.022))),
)
TOKEN_S = 0.0015
"""A draft at depth 0."""


def chosen(name: str, threshold: float | None = None) -> ChosenRule:
    return ChosenRule.of(RULES.named(name), {} if threshold is None else {"threshold": threshold})


def trace(scores: list[float], agrees: list[bool] | None = None, prompt_len: int = 5) -> Trace:
    return Trace(prompt_len, tuple(scores), tuple(agrees or [True] * len(scores)), (False,) * len(scores))


@st.composite
def traces(draw: st.DrawFn) -> tuple[Trace, ...]:
    def one() -> Trace:
        rows = draw(
            st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans(), st.booleans()), min_size=1, max_size=40)
        )
        return Trace(draw(st.integers(1, 9)), *(tuple(column) for column in zip(*rows, strict=True)))

    return tuple(one() for _ in range(draw(st.integers(1, 4))))


@given(traces(), st.sampled_from((0.0, 0.3, 0.7, 1.0)))
@settings(deadline=None)
def test_depth_0_takes_a_draft_a_score_and_the_passes_that_the_rule_asks_for(
    answers: tuple[Trace, ...], threshold: float
) -> None:
    times = replace(TIMES, llm_pass=StepTime.constant(0.02))
    routed = RuleTraces(chosen("router", threshold), answers)
    asked = routed.llm_share() * routed.num_tokens
    expected = routed.num_tokens * (TOKEN_S + 0.0007) + asked * 0.02
    assert predict(routed, times, depth=0).seconds == pytest.approx(expected)


@given(traces(), st.integers(0, 12), st.lists(st.floats(0, 1), min_size=2, max_size=2))
@settings(deadline=None)
def test_more_of_the_llm_is_never_faster_where_it_agrees(
    answers: tuple[Trace, ...], depth: int, thresholds: list[float]
) -> None:
    agreed = tuple(replace(each, agrees=(True,) * len(each)) for each in answers)
    low, high = sorted(thresholds)
    times = replace(TIMES, llm_pass=StepTime.constant(0.02))
    more, less = (predict(RuleTraces(chosen("entropy", t), agreed), times, depth=depth) for t in (low, high))
    # A question more may share a pass otherwise: never more than one pass an answer is won by that.
    assert more.seconds >= less.seconds - 0.02 * len(answers)


@given(traces(), st.integers(0, 12), st.integers(1, 3))
@settings(deadline=None)
def test_every_token_is_written_once_whatever_the_schedule(
    answers: tuple[Trace, ...], depth: int, num_streams: int
) -> None:
    for rule in (chosen("slm"), chosen("llm"), chosen("lossless"), chosen("margin", 0.5)):
        predicted = predict(RuleTraces(rule, answers), TIMES, depth=depth, num_streams=num_streams, hold_s=0.005)
        assert predicted.num_tokens == sum(map(len, answers))
        assert predicted.seconds >= predicted.num_tokens / num_streams * 0.001 * 0.99


@given(traces(), st.integers(0, 12))
@settings(deadline=None)
def test_slm_alone_never_asks_and_never_drops(answers: tuple[Trace, ...], depth: int) -> None:
    alone = RuleTraces(chosen("slm"), answers)
    predicted = predict(alone, TIMES, depth=depth)
    assert alone.llm_share() == 0
    assert predicted.num_drafts_dropped == 0
    assert predicted.seconds <= alone.num_tokens * TOKEN_S * 1.0001


def test_llm_alone_at_depth_0_is_as_slow_as_the_plain_llm_and_its_drafts() -> None:
    answers = (trace([0.0] * 50, [False] * 50),)
    by_llm = predict(RuleTraces(chosen("llm"), answers), TIMES, depth=0)
    plain = predict_plain(answers, TIMES)
    assert by_llm.seconds == pytest.approx(plain.seconds + 50 * TOKEN_S, rel=0.01)


def test_drafts_that_cost_nothing_make_the_llm_alone_as_fast_as_the_plain_llm() -> None:
    answers = (trace([0.0] * 50, [False] * 50),)
    free = replace(TIMES, slm_step=StepTime.constant(0.0), slm_hop_s=0.0)
    by_llm = predict(RuleTraces(chosen("llm"), answers), free, depth=0)
    assert by_llm.seconds == pytest.approx(predict_plain(answers, TIMES).seconds, rel=0.01)


def test_run_ahead_shares_passes_where_the_models_agree() -> None:
    answers = (trace([0.0] * 60),)
    lossless = RuleTraces(chosen("lossless"), answers)
    waiting, ahead = (predict(lossless, TIMES, depth=depth).seconds for depth in (0, 12))
    assert ahead < waiting / 3


def test_disagreement_loses_drafts_and_time() -> None:
    agrees = [index % 3 != 0 for index in range(60)]
    lossless = [RuleTraces(chosen("lossless"), (trace([0.0] * 60, each),)) for each in ([True] * 60, agrees)]
    agreed, disagreed = (predict(each, TIMES, depth=12) for each in lossless)
    assert agreed.num_drafts_dropped == 0
    assert disagreed.num_drafts_dropped > 10
    assert disagreed.seconds > agreed.seconds


def test_models_that_slow_each_other_down_take_longer_with_run_ahead_alone() -> None:
    answers = (trace([0.0, 1.0] * 30),)
    routed = RuleTraces(chosen("router", 0.5), answers)
    shared = replace(TIMES, slm_slowdown=2.0, llm_slowdown=1.5)
    assert predict(routed, shared, depth=0) == predict(routed, TIMES, depth=0)
    assert predict(routed, shared, depth=12).seconds > predict(routed, TIMES, depth=12).seconds


def test_more_streams_write_more_tokens_a_second() -> None:
    routed = RuleTraces(chosen("router", 0.5), (trace([0.0, 0.2, 1.0, 0.1] * 10),) * 16)
    assert (
        predict(routed, TIMES, depth=4, num_streams=8).tokens_per_s > 2 * predict(routed, TIMES, depth=4).tokens_per_s
    )


def test_router_without_its_times_is_refused() -> None:
    with pytest.raises(ValueError, match="rule router needs a router"):
        predict(RuleTraces(chosen("router", 0.5), (trace([0.0]),)), replace(TIMES, router=None), depth=0)


def test_step_time_is_linear_between_measured_sizes() -> None:
    time = StepTime(((1, 1.0), (3, 2.0), (5, 6.0)))
    assert [time(size) for size in (0, 1, 2, 3, 4, 5, 6)] == [1.0, 1.0, 1.5, 2.0, 4.0, 6.0, 8.0]
    assert StepTime.constant(2.0)(100) == 2.0
    with pytest.raises(ValueError, match="sizes have to rise"):
        StepTime(((3, 1.0), (1, 2.0)))
