"""What a rule is: its name, its parameters, what its scores are computed from, and the decider that it makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.rules.decider import Decider


class Evidence(Enum):
    """What the score of a draft is computed from."""

    NONE = 1
    """Nothing: drafts aren't scored."""
    SLM = 2
    """What the SLM's step says of it, by the rule itself."""
    ROUTER = 3
    """The SLM's features, by the router service."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number that a request may set.

    Args:
        description: What it does, for people.
        default: Used where a request is silent; None where it has to say.
        least: Smallest value.
        most: Largest value.
        whole: Whether it is an integer.
    """

    description: str
    default: float | None
    least: float = 0.0
    most: float = math.inf
    whole: bool = False


@dataclass(frozen=True, slots=True)
class DraftRows:
    """Drafts of one step, of any sequences. A row's score depends on that row alone.

    Args:
        top_logits: f32 [rows, 100], the largest raw logits, descending.
        token_ids: i64 [rows], the drafts.
    """

    top_logits: NDArray[np.float32]
    token_ids: NDArray[np.int64]


class Rule(Protocol):
    """A routing rule. Stateless; what is kept of a sequence is its decider's."""

    @property
    def name(self) -> str:
        """What requests call it."""

    @property
    def version(self) -> str:
        """Changes whenever a decision could."""

    @property
    def evidence(self) -> Evidence:
        """What its scores are computed from."""

    @property
    def needs_llm(self) -> bool:
        """Whether the LLM is ever asked."""

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What a request may set. One that has a threshold calls it "threshold"."""

    def scores(self, rows: DraftRows) -> NDArray[np.float32]:
        """Scores drafts; larger means more likely to be routed. Asked of rules with `Evidence.SLM` alone.

        Returns:
            f32 [rows], finite.
        """

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        """Makes the decider of a sequence.

        Args:
            parameters: A value for every one of `parameters`, checked.
        """


class RuleError(ValueError):
    """A rule can't be used as it is asked for. The message begins with the field's name."""


def resolve_parameters(rule: Rule, asked: Mapping[str, float]) -> dict[str, float]:
    """Checks what a request sets, and fills in what it doesn't.

    Args:
        rule: The rule.
        asked: Values by parameter.

    Returns:
        A value for every parameter, in order of name.

    Raises:
        RuleError: A parameter is unknown, missing, or out of range.
    """
    for name in asked:
        if name not in rule.parameters:
            known = ", ".join(sorted(rule.parameters)) or "none"
            raise RuleError(f"rule.parameters.{name}: {rule.name} has no such parameter; it has {known}")
    return {name: _value(rule, name, asked.get(name)) for name in sorted(rule.parameters)}


def _value(rule: Rule, name: str, asked: float | None) -> float:
    parameter = rule.parameters[name]
    value = parameter.default if asked is None else asked
    if value is None:
        raise RuleError(f"rule.parameters.{name}: {rule.name} needs it")
    # Written so that NaN fails it.
    if not (math.isfinite(value) and parameter.least <= value <= parameter.most):
        most = "" if math.isinf(parameter.most) else f" and at most {parameter.most:g}"
        raise RuleError(f"rule.parameters.{name}: must be finite, at least {parameter.least:g}{most}, got {value:g}")
    if parameter.whole and value != int(value):
        raise RuleError(f"rule.parameters.{name}: must be a whole number, got {value:g}")
    return float(value)
