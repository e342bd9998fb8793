"""The suite lets the shipped rules pass, and refuses rules that break what every rule must keep."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.rule_suite import RuleBroken, check_rule
from services.rules.decider import Always, Draft, Stateless, Threshold, Verdict
from services.rules.rule import DraftRows, Evidence, Parameter, Rule
from services.rules.shipped import SHIPPED, EntropyRule, LosslessRule
from tests.unit.orchestrator.routing.laws import ImpatientRule

FEW = 60


@pytest.mark.parametrize("rule", [*SHIPPED, ImpatientRule()], ids=lambda rule: rule.name)
def test_rule_that_keeps_its_promises_passes(rule: Rule) -> None:
    assert check_rule(rule, max_examples=FEW)[-2:] == ("exactness", "elsewhere")


def test_suite_takes_a_class_and_tells_of_each_example() -> None:
    told: list[str] = []
    check_rule(EntropyRule, max_examples=5, on_example=told.append)
    assert [name for name, _ in itertools.groupby(told)] == ["scores", "decisions", "threshold", "exactness"]
    assert len(told) >= 20
    told.clear()
    assert check_rule(LosslessRule, max_examples=5, on_example=told.append) == ("decisions", "exactness", "elsewhere")
    assert set(told) == {"decisions", "exactness"}


def decided_by(make: Callable[[Mapping[str, float]], Any], **attributes: Any) -> Any:
    """The entropy rule with other deciders."""
    return type("Broken", (EntropyRule,), {"decider": lambda self, parameters: make(parameters), **attributes})()


def scored_by(score: Callable[[DraftRows], Any]) -> Any:
    """The entropy rule with other scores."""
    return type("Broken", (EntropyRule,), {"scores": lambda self, rows: score(rows)})()


def entropy(rows: DraftRows) -> NDArray[np.float32]:
    return EntropyRule().scores(rows)


class Moody(Stateless):
    """Decides by a draw."""

    def __init__(self, parameters: Mapping[str, float]) -> None:
        pass

    def verdict(self, draft: Draft) -> Verdict:
        return Verdict.ASK if random.random() < 0.5 else Verdict.ACCEPT


class Secretive(Stateless):
    """Keeps state without saying so."""

    def __init__(self, parameters: Mapping[str, float]) -> None:
        self._num_asked = 0

    def verdict(self, draft: Draft) -> Verdict:
        self._num_asked += 1
        return Verdict.ASK if self._num_asked % 3 == 0 else Verdict.ACCEPT


class Remembering:
    """Counts what it was asked, instead of what was accepted."""

    in_order = True

    def __init__(self, parameters: Mapping[str, float]) -> None:
        self._num_asked = 0

    def verdict(self, draft: Draft) -> Verdict:
        self._num_asked += 1
        return Verdict.ASK if self._num_asked % 3 == 0 else Verdict.ACCEPT

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        pass


class Sharing:
    """Keeps the state of all sequences in one place."""

    in_order = True
    tokens: list[int] = []  # noqa: RUF012

    def __init__(self, parameters: Mapping[str, float]) -> None:
        pass

    def verdict(self, draft: Draft) -> Verdict:
        return Verdict.ASK if sum(self.tokens) % 3 == 0 else Verdict.ACCEPT

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        self.tokens.append(token_id)


class Trusting(Remembering):
    """Takes it that the LLM writes wherever it is asked."""

    def __init__(self, parameters: Mapping[str, float]) -> None:
        self._asked = False
        self._num_since = 0

    def verdict(self, draft: Draft) -> Verdict:
        self._asked = self._num_since >= 2
        return Verdict.ASK if self._asked else Verdict.ACCEPT

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        self._num_since = 0 if self._asked else self._num_since + 1


class Backwards(Stateless):
    """Asks below its threshold."""

    def __init__(self, parameters: Mapping[str, float]) -> None:
        self._threshold = parameters["threshold"]

    def verdict(self, draft: Draft) -> Verdict:
        return Verdict.ASK if draft.score < self._threshold else Verdict.ACCEPT


class Truthful(Stateless):
    def verdict(self, draft: Draft) -> bool:
        return draft.score < 1


class Fallible(Stateless):
    def verdict(self, draft: Draft) -> Verdict:
        raise KeyError(draft.token_id)


DIGITS = Parameter("Some.", default=3, most=7, whole=True)

BROKEN: dict[str, tuple[Any, str, str]] = {
    "a text as version": (type("Broken", (EntropyRule,), {"version": 3})(), "form", "version: expected"),
    "no decider": (object(), "form", "has no attribute"),
    "a default out of range": (
        type("Broken", (EntropyRule,), {"parameters": {"threshold": Parameter("Some.", default=-1)}})(),
        "form",
        "rule.parameters.threshold: must be finite, at least 0, got -1",
    ),
    "scores that depend on the batch": (
        scored_by(lambda rows: (entropy(rows) - entropy(rows).mean()).astype(np.float32)),
        "scores",
        "alone",
    ),
    "scores that depend on the order": (
        scored_by(lambda rows: entropy(rows) + np.arange(len(rows.token_ids), dtype=np.float32)),
        "scores",
        "row 1 of 2 has ",
    ),
    "scores of the wrong type": (
        scored_by(lambda rows: entropy(rows).astype(np.float64)),
        "scores",
        "got float64 [1]",
    ),
    "scores of the wrong shape": (scored_by(lambda rows: entropy(rows)[:, None]), "scores", "got float32 [1, 1]"),
    "scores that are a list": (scored_by(lambda rows: entropy(rows).tolist()), "scores", "expected f32 [1], got ["),
    "scores that are not finite": (
        scored_by(lambda rows: np.full(len(rows.token_ids), np.nan, dtype=np.float32)),
        "scores",
        "expected finite numbers, got [nan]",
    ),
    "scores that write to their input": (
        scored_by(lambda rows: np.exp(rows.top_logits, out=rows.top_logits)[:, 0]),
        "scores",
        "raises ValueError: output array is read-only",
    ),
    "decisions by chance": (decided_by(Moody), "decisions", "gets A"),
    "state that isn't told": (decided_by(Secretive), "decisions", "a decider with state says so by in_order"),
    "state of what was asked": (
        decided_by(Remembering),
        "decisions",
        "of a decider that is rebuilt from the 2 tokens",
    ),
    "state that sequences share": (decided_by(Sharing), "decisions", "of a decider that is rebuilt from"),
    "state that takes the LLM for sure": (decided_by(Trusting), "decisions", "of a decider that is rebuilt from"),
    "a threshold the wrong way round": (decided_by(Backwards), "threshold", "a higher threshold must ask no more"),
    "an answer that is no verdict": (decided_by(lambda _: Truthful()), "decisions", "expected a Verdict, got "),
    "an answer that is none": (decided_by(lambda _: Fallible()), "decisions", "raises KeyError: "),
    "an LLM that it says it doesn't need": (
        decided_by(lambda _: Always(Verdict.CONFIRM), needs_llm=False),
        "decisions",
        "it needs no LLM (needs_llm), and answers CONFIRM",
    ),
    "a value of a parameter that it can't use": (
        decided_by(lambda values: Threshold(1 / (values["digits"] - 7)), parameters={"digits": DIGITS}),
        "decisions",
        "raises ZeroDivisionError: ",
    ),
}


@pytest.mark.parametrize(("rule", "check", "what"), BROKEN.values(), ids=BROKEN)
def test_rule_that_breaks_a_promise_is_refused_by_name_with_what_it_breaks(rule: Any, check: str, what: str) -> None:
    with pytest.raises(RuleBroken) as caught:
        check_rule(rule, max_examples=FEW)
    message = str(caught.value)
    assert message.startswith(f"rule {getattr(rule, 'name', rule)}: {check}: ")
    assert what in message
    assert caught.value.check == check


def test_rule_whose_scores_have_a_memory_is_refused() -> None:
    num_calls = itertools.count()

    def score(rows: DraftRows) -> NDArray[np.float32]:
        return entropy(rows) + np.float32(next(num_calls) // 50 % 2)

    with pytest.raises(RuleBroken, match=r"^rule entropy: scores: "):
        check_rule(scored_by(score))


def test_rule_that_is_wrong_only_within_the_core_is_refused_by_its_schedule() -> None:
    class Late(Stateless):
        """Takes the first draft of a position for the one that stands."""

        def __init__(self) -> None:
            self._first: dict[int, Verdict] = {}

        def verdict(self, draft: Draft) -> Verdict:
            decided = Verdict.ASK if (draft.token_id + draft.position) % 3 == 0 else Verdict.ACCEPT
            return self._first.setdefault(draft.position, decided)

    with pytest.raises(RuleBroken, match=r"^rule entropy: exactness: token ") as caught:
        check_rule(decided_by(lambda _: Late(), evidence=Evidence.NONE, parameters={}))
    assert "; for example no parameters; Models(" in str(caught.value)
    assert "\n" not in str(caught.value)


class Hashed(LosslessRule):
    """Depends on the process: Python hashes texts with a seed of each."""

    name = "hashed"

    def decider(self, parameters: Mapping[str, float]) -> Hashing:
        return Hashing()


class Hashing(Stateless):
    def verdict(self, draft: Draft) -> Verdict:
        return Verdict.ASK if hash(str(draft.position)) % 2 else Verdict.ACCEPT


def test_rule_that_depends_on_the_process_is_refused() -> None:
    with pytest.raises(RuleBroken, match=r"^rule hashed: elsewhere: Draft\(.* in another process, Draft\(.* gets A"):
        check_rule(Hashed(), max_examples=5)


class Clocked(Stateless):
    """Changes its mind ten thousand times a second."""

    def verdict(self, draft: Draft) -> Verdict:
        return Verdict.ASK if int(time.monotonic() * 10_000) % 2 else Verdict.ACCEPT


def test_rule_that_depends_on_the_time_is_refused() -> None:
    with pytest.raises(RuleBroken, match=r"^rule entropy: "):
        check_rule(decided_by(lambda _: Clocked(), evidence=Evidence.NONE, parameters={}))


def test_rule_that_no_other_process_can_import_is_not_checked_there() -> None:
    class Local(LosslessRule):
        name = "local"

    assert check_rule(Local(), max_examples=5) == ("decisions", "exactness")


def test_broken_rule_is_refused_with_the_same_example_each_time() -> None:
    messages = []
    for _ in range(2):
        with pytest.raises(RuleBroken) as caught:
            check_rule(scored_by(lambda rows: entropy(rows) + np.float32(len(rows.token_ids))))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
