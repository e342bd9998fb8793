"""A rule as a sequence has it: with a value for each of its parameters."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.rules.decider import Decider
from services.rules.rule import Evidence, Rule, resolve_parameters

THRESHOLD = "threshold"
"""What every rule calls its threshold that has one."""


@dataclass(frozen=True, slots=True)
class ChosenRule:
    """A rule with a value for each of its parameters, all checked.

    Args:
        rule: The rule.
        parameters: The values.
        router_weights: SHA-256 of the router's weights, in hex, where the rule asks it.
    """

    rule: Rule
    parameters: Mapping[str, float]
    router_weights: str = ""

    @classmethod
    def of(cls, rule: Rule, parameters: Mapping[str, float] | None = None) -> ChosenRule:
        """Checks parameters, and fills in those that are left out.

        Raises:
            RuleError: One is unknown, missing, or out of range.
        """
        return cls(rule, resolve_parameters(rule, parameters or {}))

    @property
    def threshold(self) -> float | None:
        """Its threshold; None where the rule has none."""
        return self.parameters.get(THRESHOLD)

    @property
    def evidence(self) -> Evidence:
        """What its scores are computed from."""
        return self.rule.evidence

    @property
    def may_ask_llm(self) -> bool:
        """Whether the LLM is ever asked: never by a rule that needs none, nor above any probability."""
        is_out_of_reach = self.evidence is Evidence.ROUTER and (self.threshold or 0.0) > 1
        return self.rule.needs_llm and not is_out_of_reach

    def decider(self) -> Decider:
        """Makes the decider of a sequence."""
        return self.rule.decider(self.parameters)

    def with_threshold(self, threshold: float) -> ChosenRule:
        """The same rule with another threshold."""
        return replace(self, parameters={**self.parameters, THRESHOLD: threshold})

    def identity(self) -> bytes:
        """Bytes that differ where decisions may."""
        names = "\0".join((self.rule.name, self.rule.version, self.router_weights, *sorted(self.parameters)))
        values = [self.parameters[name] for name in sorted(self.parameters)]
        return names.encode() + b"\0" + struct.pack(f"<{len(values)}d", *values)
