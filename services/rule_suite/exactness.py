"""Whatever happens meanwhile, the tokens are those of the rule's own reference decoding.

Owns the schedules: the routing core around simulated models, with drafts, scores and answers in any order, late,
twice or never, models that are lost and come back, and sequences that are resumed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import strategies as st

from services.orchestrator.index.token_log import LogCursor, log_header, read_log
from services.orchestrator.routing.actions import AcceptedToken, FinishReason
from services.rule_suite.reference import Case, reference_decoding
from services.rule_suite.simulation import Simulation
from services.rule_suite.strategies import cases, chosen_rules
from services.rules.rule import Rule


@dataclass(frozen=True)
class Schedule:
    """A sequence, and what happens to it.

    Args:
        case: What is decoded.
        depth: How far the SLM may run ahead.
        faults: Probability of a fault at each step.
        seed: Draws the order of things.
        num_resumed: Tokens, at most, that were accepted in an earlier life of the sequence.
        goes_on_without_llm: Whether drafts stand where no LLM is left.
    """

    case: Case
    depth: int
    faults: float
    seed: int
    num_resumed: int
    goes_on_without_llm: bool

    def __str__(self) -> str:
        case = self.case
        parameters = ", ".join(f"{name}={value:g}" for name, value in case.rule.parameters.items()) or "no parameters"
        return (
            f"{parameters}; {case.models}, prompt {case.prompt}, max_len {case.max_len}, stop_pair {case.stop_pair}; "
            f"depth {self.depth}, faults {self.faults:g}, seed {self.seed}, resumed after {self.num_resumed} tokens"
        )


def schedules(rule: Rule) -> st.SearchStrategy[Schedule]:
    """Any schedule."""
    return st.builds(
        Schedule,
        case=cases(chosen_rules(rule)),
        depth=st.integers(0, 16),
        faults=st.sampled_from([0.0, 0.02, 0.2]),
        seed=st.integers(0, 2**32),
        num_resumed=st.just(0) | st.integers(0, 60),
        goes_on_without_llm=st.booleans(),
    )


def broken_exactness(rule: Rule, schedule: Schedule) -> str | None:
    """Where a rule's tokens differ from those of its reference decoding; None if they don't."""
    reference, reason = reference_decoding(schedule.case)
    resumed = _from_a_log(reference[: schedule.num_resumed])
    simulation = Simulation(
        schedule.case,
        depth=schedule.depth,
        rng=random.Random(schedule.seed),
        faults=schedule.faults,
        resumed=resumed,
    )
    simulation.goes_on_without_llm = schedule.goes_on_without_llm
    try:
        simulation.run()
        if schedule.goes_on_without_llm:
            simulation.assert_follows_the_rule()
    except AssertionError as error:
        return str(error)
    if simulation.first_loss is not None:
        return None
    return _difference(simulation.emitted, simulation.finish, reference, reason)


def _from_a_log(tokens: list[AcceptedToken]) -> tuple[AcceptedToken, ...]:
    """Tokens as they come back out of a token log."""
    header = log_header(b"", b"")
    log = header + LogCursor("", header).batch(tokens).records
    return read_log(log, header, 1 + max((token.token_id for token in tokens), default=0)).tokens


def _difference(
    emitted: list[AcceptedToken], finish: FinishReason | None, reference: list[AcceptedToken], reason: FinishReason
) -> str | None:
    for index, (token, expected) in enumerate(zip(emitted, reference, strict=False)):
        if token != expected:
            return f"token {index} is {token}, and {expected} in the reference decoding"
    if len(emitted) != len(reference) or finish is not reason:
        return f"it ends after {len(emitted)} tokens ({finish}), its reference after {len(reference)} ({reason})"
    return None
