import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.orchestrator.routing.actions import (
    AcceptedToken,
    AskLlm,
    Emit,
    Finish,
    FinishReason,
    GrantSlm,
    OpenSlm,
    RewindSlm,
    Source,
)
from services.orchestrator.routing.core import Ending, RoutingCore
from services.orchestrator.routing.depth import RunAhead
from services.rule_suite.models import EOS, PairReader
from services.rule_suite.reference import Case, reference_decoding
from services.rule_suite.simulation import Simulation
from services.rule_suite.strategies import cases
from services.rules.decider import Threshold
from tests.unit.orchestrator.routing.laws import RULES, lawful_token

NUM_SCHEDULES = max(500, settings().max_examples)

rules = st.builds(
    lambda name, threshold: RULES[name](threshold),
    st.sampled_from(sorted(RULES)),
    st.sampled_from([0.0, 0.3, 0.8, 1.0, 1.5]),
)


@settings(max_examples=NUM_SCHEDULES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    case=cases(rules), depth=st.integers(0, 16), faults=st.sampled_from([0.0, 0.02, 0.2]), seed=st.integers(0, 2**32)
)
def test_core_random_schedules_and_faults_equal_reference_decoding(
    case: Case, depth: int, faults: float, seed: int
) -> None:
    simulation = Simulation(case, depth=depth, rng=random.Random(seed), faults=faults)
    simulation.run()
    assert (simulation.emitted, simulation.finish) == reference_decoding(case, lawful_token)


@settings(max_examples=NUM_SCHEDULES // 5, deadline=None)
@given(case=cases(rules), depth=st.integers(0, 16), seed=st.integers(0, 2**32), steps=st.integers(0, 200))
def test_core_cancelled_at_random_has_emitted_a_prefix_of_the_reference(
    case: Case, depth: int, seed: int, steps: int
) -> None:
    simulation = Simulation(case, depth=depth, rng=random.Random(seed), faults=0.02)
    simulation.apply(simulation.core.llm_ready())
    simulation.llm_attached = True
    simulation.apply(simulation.core.slm_ready())
    for _ in range(steps):
        if not simulation.finish:
            simulation.step()
    was_running = simulation.finish is None
    simulation.apply(simulation.core.cancel())
    if was_running:
        assert simulation.finish is FinishReason.CANCELLED
    reference, _ = reference_decoding(case, lawful_token)
    assert simulation.emitted == reference[: len(simulation.emitted)]
    late = [simulation.core.scored(position, 0.5, 1) for position in range(60)]
    assert late == [[]] * 60


@settings(max_examples=NUM_SCHEDULES // 5, deadline=None)
@given(case=cases(rules), depth=st.integers(0, 16), seed=st.integers(0, 2**32), data=st.data())
def test_core_resumed_from_any_point_continues_the_reference(
    case: Case, depth: int, seed: int, data: st.DataObject
) -> None:
    reference, reason = reference_decoding(case, lawful_token)
    num_known = data.draw(st.integers(0, len(reference)))
    simulation = Simulation(case, depth=depth, rng=random.Random(seed), resumed=reference[:num_known])
    simulation.run()
    assert simulation.emitted == reference
    assert simulation.finish is reason


@settings(max_examples=NUM_SCHEDULES // 5, deadline=None)
@given(case=cases(rules), seed=st.integers(0, 2**32))
def test_core_depth_zero_asks_for_each_routed_token_once_and_drops_nothing(case: Case, seed: int) -> None:
    simulation = Simulation(case, depth=0, rng=random.Random(seed))
    simulation.run()
    asked = (Source.LLM, Source.SLM_CONFIRMED)
    assert simulation.num_queries == sum(token.source in asked for token in simulation.emitted)
    assert simulation.core.num_drafts_dropped == 0
    assert simulation.core.num_answers_dropped == 0


@settings(max_examples=NUM_SCHEDULES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(rules), depth=st.integers(0, 16), faults=st.sampled_from([0.02, 0.2]), seed=st.integers(0, 2**32))
def test_core_that_goes_on_without_llm_follows_the_rule_and_marks_each_token_that_was_not_routed(
    case: Case, depth: int, faults: float, seed: int
) -> None:
    simulation = Simulation(case, depth=depth, rng=random.Random(seed), faults=faults)
    simulation.goes_on_without_llm = True
    simulation.run()
    simulation.assert_follows_the_rule(lawful_token)
    reference, reason = reference_decoding(case, lawful_token)
    num_before = len(simulation.emitted) if simulation.first_loss is None else simulation.first_loss
    assert simulation.emitted[:num_before] == reference[:num_before]
    if not any(token.source is Source.SLM_FALLBACK for token in simulation.emitted):
        assert (simulation.emitted, simulation.finish) == (reference, reason)


def emit(*tokens: AcceptedToken) -> Emit:
    return Emit(tokens, tuple("" if token.token_id == EOS else f"{token.token_id} " for token in tokens))


def make_core(threshold: float = 0.5, depth: int = 4, max_len: int = 100) -> RoutingCore:
    core = RoutingCore(
        [7, 8],
        decider=Threshold(threshold),
        ending=Ending(frozenset({EOS}), max_len, PairReader(None)),
        run_ahead=RunAhead(depth),
    )
    assert core.llm_ready() == []
    assert core.slm_ready() == [OpenSlm((7, 8), 1, min(3 + depth, max_len))]
    return core


def test_scored_below_threshold_accepts_the_draft() -> None:
    core = make_core(depth=0)
    assert core.drafted(2, 11, 1)
    assert core.scored(2, 0.4, 1) == [emit(AcceptedToken(11, Source.SLM, 0.4)), GrantSlm(4)]


def test_scored_at_threshold_asks_the_llm_for_the_tokens_before() -> None:
    core = make_core(depth=0)
    core.drafted(2, 11, 1)
    assert core.scored(2, 0.5, 1) == [AskLlm(1, 0, (7, 8), (2,))]


def test_answered_with_another_token_rewinds_the_slm_and_drops_later_drafts() -> None:
    core = make_core()
    for position, token_id in enumerate([11, 12, 13], start=2):
        core.drafted(position, token_id, 1)
    core.scored(2, 0.9, 1)
    core.scored(3, 0.1, 1)
    assert core.answered(1, [21]) == [
        emit(AcceptedToken(21, Source.LLM, 0.9)),
        RewindSlm(2, (21,), 2, 7),
    ]
    assert core.num_drafts_dropped == 2
    assert not core.drafted(5, 14, 1)
    assert core.scored(4, 0.1, 1) == []


def test_answered_several_positions_drops_those_behind_a_disagreement() -> None:
    core = make_core()
    for position, token_id in enumerate([11, 12, 13], start=2):
        core.drafted(position, token_id, 1)
    core.scored(2, 0.9, 1)
    core.scored(3, 0.9, 1)
    core.scored(4, 0.9, 1)
    actions = core.answered(1, [11])
    assert actions[:2] == [emit(AcceptedToken(11, Source.LLM, 0.9)), AskLlm(2, 2, (11, 12), (3, 4))]
    assert core.answered(2, [22, 13])[0] == emit(AcceptedToken(22, Source.LLM, 0.9))
    assert core.num_answers_dropped == 1
    assert list(core.tokens) == [7, 8, 11, 22]


def test_tokens_behind_an_undecided_one_are_held_back() -> None:
    core = make_core()
    core.drafted(2, 11, 1)
    core.drafted(3, 12, 1)
    assert not any(isinstance(action, Emit) for action in core.scored(3, 0.1, 1))
    assert core.scored(2, 0.1, 1)[0] == emit(AcceptedToken(11, Source.SLM, 0.1), AcceptedToken(12, Source.SLM, 0.1))


def test_flagged_eos_goes_to_the_llm_which_may_go_on() -> None:
    core = make_core()
    core.drafted(2, EOS, 1)
    core.scored(2, 0.9, 1)
    actions = core.answered(1, [21])
    assert actions == [emit(AcceptedToken(21, Source.LLM, 0.9)), RewindSlm(2, (21,), 2, 8)]
    assert core.finish_reason is None


def test_llm_eos_ends_the_sequence() -> None:
    core = make_core()
    core.drafted(2, 11, 1)
    core.scored(2, 0.9, 1)
    assert core.answered(1, [EOS]) == [
        emit(AcceptedToken(EOS, Source.LLM, 0.9)),
        Finish(FinishReason.STOP, "held"),
    ]


def test_positions_past_the_limit_are_neither_drafted_nor_queried() -> None:
    core = make_core(max_len=3)
    core.drafted(2, 11, 1)
    assert core.scored(2, 0.1, 1)[-1] == Finish(FinishReason.LENGTH, "held")


def test_llm_needs_resends_from_there() -> None:
    core = make_core()
    core.drafted(2, 11, 1)
    core.scored(2, 0.9, 1)
    core.answered(1, [11])
    core.drafted(3, 12, 1)
    assert core.scored(3, 0.9, 1)[0] == AskLlm(2, 2, (11,), (3,))
    assert core.llm_needs(2, 0) == [AskLlm(3, 0, (7, 8, 11), (3,))]


def test_run_ahead_dropped_drafts_halve_accepted_tokens_deepen_and_saturation_stops_it() -> None:
    run_ahead = RunAhead(8)
    run_ahead.overruled(0)
    assert run_ahead.depth == 8
    run_ahead.overruled(3)
    assert run_ahead.depth == 4
    run_ahead.accepted(3)
    assert run_ahead.depth == 7
    run_ahead.accepted(3)
    assert run_ahead.depth == 8
    run_ahead.slm_saturated = True
    assert run_ahead.depth == 0


def test_run_ahead_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0, got -1"):
        RunAhead(-1)


def test_scores_lost_redrafts_from_the_first_unscored_position_and_voids_queries_behind_it() -> None:
    core = make_core()
    for position, token_id in enumerate([11, 12, 13], start=2):
        core.drafted(position, token_id, 1)
    assert core.scored(4, 0.9, 1)[0] == AskLlm(1, 0, (7, 8, 11, 12), (4,))
    assert core.scores_lost() == [RewindSlm(2, (), 2, 7)]
    assert list(core.tokens) == [7, 8]
    assert core.answered(1, [99]) == []
    core.drafted(2, 31, 2)
    assert core.scored(2, 0.9, 2)[0] == AskLlm(2, 1, (8,), (2,))


def test_llm_ready_after_a_loss_sends_the_whole_prefix_again() -> None:
    core = make_core()
    core.drafted(2, 11, 1)
    core.scored(2, 0.9, 1)
    core.answered(1, [11])
    core.drafted(3, 12, 1)
    core.scored(3, 0.9, 1)
    assert core.llm_lost() == []
    assert core.llm_ready() == [AskLlm(3, 0, (7, 8, 11), (3,))]


def test_llm_absent_lets_flagged_drafts_stand_and_later_ones_too_until_an_llm_is_back() -> None:
    core = make_core(depth=0)
    core.drafted(2, 11, 1)
    core.scored(2, 0.9, 1)
    core.llm_lost()
    assert core.llm_absent() == [emit(AcceptedToken(11, Source.SLM_FALLBACK, 0.9)), GrantSlm(4)]
    core.drafted(3, 12, 1)
    assert core.scored(3, 0.5, 1) == [emit(AcceptedToken(12, Source.SLM_FALLBACK, 0.5)), GrantSlm(5)]
    core.drafted(4, 13, 1)
    assert core.scored(4, 0.1, 1) == [emit(AcceptedToken(13, Source.SLM, 0.1)), GrantSlm(6)]
    assert core.answered(1, [99]) == []
    core.drafted(5, 14, 1)
    assert core.llm_ready() == []
    assert core.scored(5, 0.9, 1) == [AskLlm(2, 0, (7, 8, 11, 12, 13), (5,))]


def test_llm_absent_is_ignored_while_an_llm_is_there() -> None:
    core = make_core(depth=0)
    core.drafted(2, 11, 1)
    core.scored(2, 0.9, 1)
    assert core.llm_absent() == []
    assert core.answered(1, [21])[0] == emit(AcceptedToken(21, Source.LLM, 0.9))


def test_llm_absent_flagged_eos_ends_the_sequence() -> None:
    core = make_core()
    core.llm_lost()
    assert core.llm_absent() == []
    core.drafted(2, EOS, 1)
    assert core.scored(2, 0.9, 1) == [
        emit(AcceptedToken(EOS, Source.SLM_FALLBACK, 0.9)),
        Finish(FinishReason.STOP, "held"),
    ]


def test_slm_lost_keeps_drafts_that_arrived_and_opens_the_next_replica_after_them() -> None:
    core = make_core()
    core.drafted(2, 11, 1)
    core.slm_lost()
    assert not core.drafted(3, 12, 1)
    assert core.slm_ready() == [OpenSlm((7, 8, 11), 3, 7)]
    assert core.scored(2, 0.1, 1)[0] == emit(AcceptedToken(11, Source.SLM, 0.1))


def test_awaits_draft_while_the_window_is_open_and_answer_while_a_pass_is_out() -> None:
    core = make_core(depth=0)
    assert (core.awaits_draft, core.awaits_answer) == (True, False)
    core.drafted(2, 11, 1)
    core.scored(2, 0.9, 1)
    assert (core.awaits_draft, core.awaits_answer) == (False, True)
    core.answered(1, [21])
    assert (core.awaits_draft, core.awaits_answer) == (True, False)
    core.slm_lost()
    assert not core.awaits_draft


def test_drafted_eos_is_followed_by_no_draft() -> None:
    core = make_core()
    core.drafted(2, EOS, 1)
    assert not core.awaits_draft


def test_finished_core_awaits_nothing() -> None:
    core = make_core()
    core.drafted(2, 11, 1)
    core.scored(2, 0.9, 1)
    assert core.cancel() == [Finish(FinishReason.CANCELLED, "held")]
    assert (core.awaits_draft, core.awaits_answer) == (False, False)


def test_resumed_tokens_come_with_their_text_and_may_be_all_there_is() -> None:
    resumed = [AcceptedToken(11, Source.SLM, 0.1), AcceptedToken(EOS, Source.LLM, 0.9)]
    ending = Ending(frozenset({EOS}), 100, PairReader(None))
    core = RoutingCore([7, 8], decider=Threshold(0.5), ending=ending, run_ahead=RunAhead(4), resumed=resumed)
    assert core.begin() == [emit(*resumed), Finish(FinishReason.STOP, "held")]
    assert core.slm_ready() == []
