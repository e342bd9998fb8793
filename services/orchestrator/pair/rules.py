"""The rules that a pair is served with, and which of them a request gets.

Owns what a request means that says little: the server's default rule and its parameters, and the router's calibrated
threshold. Owns also who may have which rule.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trivium.v1 import common_pb2, orchestrator_pb2

from services.common.access.keys_file import RoutingLimits
from services.common.errors import InvalidRequest, NotAllowed
from services.common.model_sizes import ModelSizes
from services.common.rule_spec import RuleSpec
from services.orchestrator.pair.budget import Budget, Sweep
from services.orchestrator.pair.check import ServedPair
from services.rules.chosen import THRESHOLD, ChosenRule
from services.rules.registry import Rules
from services.rules.rule import Evidence, Rule, RuleError
from services.rules.sweep import SLM_ONLY_THRESHOLD as NOTHING_REACHES
from services.rules.sweep import RuleSweep, SweepError, SweptModel, check_sweep, parse_sweep

_EVIDENCE = {
    Evidence.NONE: orchestrator_pb2.RULE_EVIDENCE_NONE,
    Evidence.SLM: orchestrator_pb2.RULE_EVIDENCE_SLM,
    Evidence.ROUTER: orchestrator_pb2.RULE_EVIDENCE_ROUTER,
}
_NO_SWEEP = "there is no sweep of rule {} (--rule-sweeps)"

logger = logging.getLogger(__name__)


class ServedRules:
    """Rules as one server offers them.

    Args:
        rules: Those that are installed.
        default: That of requests that name none.
        sweep_paths: Sweeps of rules.
        has_router: Whether the pair has a router.

    Raises:
        ValueError: The default can't be used, or a sweep can't be read; the message names field or file.
    """

    def __init__(
        self, rules: Rules, default: RuleSpec, sweep_paths: Sequence[Path] = (), *, has_router: bool = True
    ) -> None:
        for name, reason in rules.unusable.items():
            logger.warning("rule %s can't be used: %s", name, reason)
        self._rules = rules
        self._has_router = has_router
        self._default = default
        self._sweeps = _read_sweeps(rules, sweep_paths)
        self.default = rules.named(default.name)
        """The rule of requests that name none."""
        self._check_servable(self.default)
        # The router's threshold is known once there is a router.
        known = {THRESHOLD: 0.0} if self.default.evidence is Evidence.ROUTER else {}
        ChosenRule.of(self.default, known | dict(default.parameters))

    def __iter__(self) -> Iterator[Rule]:
        """Those that the pair can be served with, by name."""
        return (rule for rule in self._rules if self._has_router or rule.evidence is not Evidence.ROUTER)

    def choose(
        self,
        request: orchestrator_pb2.GenerateRequest,
        pair: ServedPair,
        allowed: RoutingLimits | None = None,
    ) -> ChosenRule:
        """The rule that a request gets, with a value for each of its parameters.

        Args:
            request: As received.
            pair: The pair.
            allowed: What the caller may ask for.

        Raises:
            InvalidRequest: A field can't be used; the message begins with its name.
            SweepMissing: There is a target, or a limit of LLM usage, and no sweep of the rule.
            NotAllowed: The caller may not have that routing.
        """
        try:
            if request.HasField("began_with") and request.HasField("resume_from"):
                chosen = self._resumed(request.began_with, pair, allowed or RoutingLimits())
                weights = request.began_with.router_weights_sha256
            else:
                chosen = self._choose(request, pair, allowed or RoutingLimits())
                weights = pair.router_weights
        except RuleError as error:
            raise InvalidRequest(str(error)) from error
        return replace(chosen, router_weights=weights) if chosen.evidence is Evidence.ROUTER else chosen

    def describe(self, pair: ServedPair) -> list[orchestrator_pb2.RuleInfo]:
        """What each of them is."""
        return [
            orchestrator_pb2.RuleInfo(
                name=rule.name,
                version=rule.version,
                evidence=_EVIDENCE[rule.evidence],
                needs_llm=rule.needs_llm,
                parameters=_parameters(rule, self._defaults(rule, pair)),
                has_sweep=THRESHOLD in rule.parameters and bool(self._sweep(rule, pair).points),
                is_default=rule is self.default,
            )
            for rule in self
        ]

    def _resumed(self, began_with: orchestrator_pb2.UsedRule, pair: ServedPair, allowed: RoutingLimits) -> ChosenRule:
        """The rule of a request that began elsewhere, or before the router was changed."""
        rule = self._rules.named(began_with.rule.name)
        if rule.version != began_with.version:
            raise InvalidRequest(
                f"began_with.version: it is {began_with.version!r} of rule {rule.name}, installed is {rule.version!r}"
            )
        return self._choose(orchestrator_pb2.GenerateRequest(rule=began_with.rule), pair, allowed)

    def _choose(
        self, request: orchestrator_pb2.GenerateRequest, pair: ServedPair, allowed: RoutingLimits
    ) -> ChosenRule:
        rule = self._rules.named(request.rule.name) if request.rule.name else self.default
        self._check_servable(rule)
        given = dict(request.rule.parameters)
        asked = request.WhichOneof("routing")
        if THRESHOLD not in rule.parameters:
            if asked:
                raise InvalidRequest(f"{asked}: rule {rule.name} has no threshold")
            if _limits(allowed):
                raise NotAllowed(f"rule: this key's routing has limits, and rule {rule.name} can't keep them")
            return ChosenRule.of(rule, self._defaults(rule, pair) | given)
        if asked and THRESHOLD in given:
            raise InvalidRequest(f"rule.parameters.{THRESHOLD}: {asked} is given as well")
        if rule.evidence is not Evidence.ROUTER and _limits_thresholds(allowed):
            raise NotAllowed(f"rule: this key's limits are thresholds of the router, not of rule {rule.name}")
        chosen = ChosenRule.of(rule, self._defaults(rule, pair) | given)
        budget = Budget(chosen.parameters[THRESHOLD], rule_sizes(rule, pair), self._sweep(rule, pair), allowed)
        if THRESHOLD in given:
            threshold = budget.allow(f"rule.parameters.{THRESHOLD}", chosen.parameters[THRESHOLD])
        else:
            threshold = budget.threshold(request)
        return chosen.with_threshold(threshold)

    def _check_servable(self, rule: Rule) -> None:
        if rule.evidence is Evidence.ROUTER and not self._has_router:
            others = ", ".join(other.name for other in self)
            raise RuleError(
                f"rule: {rule.name} needs a router, and this pair has none; it can be served with {others}"
            )

    def _defaults(self, rule: Rule, pair: ServedPair) -> dict[str, float]:
        known: dict[str, float] = {}
        if rule.evidence is Evidence.ROUTER and THRESHOLD in rule.parameters and pair.default_threshold is not None:
            known[THRESHOLD] = pair.default_threshold
        return known | (dict(self._default.parameters) if rule is self.default else {})

    def _sweep(self, rule: Rule, pair: ServedPair) -> Sweep:
        if rule.evidence is Evidence.ROUTER:
            return Sweep(pair.sweep)
        found = self._sweeps.get(rule.name)
        if found is None:
            return Sweep(beyond=NOTHING_REACHES, missing=_NO_SWEEP.format(rule.name))
        path, sweep = found
        try:
            check_sweep(path, sweep, rule, _swept(pair.slm))
        except SweepError as error:
            return Sweep(beyond=NOTHING_REACHES, missing=str(error))
        points = tuple((row.threshold, row.llm_usage_rate) for row in sweep.rows)
        return Sweep(points, highest=sweep.rows[0].threshold, beyond=NOTHING_REACHES)


def _swept(slm: common_pb2.ModelInfo) -> SweptModel:
    return SweptModel(
        model_id=slm.model_id,
        revision=slm.weights_revision or slm.revision,
        vocab_size=slm.vocab_size,
        hidden_size=slm.hidden_size,
        tokenizer_sha256=slm.tokenizer_sha256,
    )


def _read_sweeps(rules: Rules, paths: Sequence[Path]) -> dict[str, tuple[Path, RuleSweep]]:
    """Sweeps by the name of their rule. Whether they are of the pair's SLM is known later."""
    sweeps: dict[str, tuple[Path, RuleSweep]] = {}
    for path in paths:
        sweep = parse_sweep(path)
        rule = rules.named(sweep.rule)
        if THRESHOLD not in rule.parameters or rule.evidence is Evidence.ROUTER:
            raise RuleError(f"rule_sweeps: {path} is of rule {rule.name}, which takes none")
        if sweep.version != rule.version:
            raise RuleError(
                f"rule_sweeps: {path} is of version {sweep.version} of {rule.name}, installed is {rule.version}"
            )
        if rule.name in sweeps:
            raise RuleError(f"rule_sweeps: {sweeps[rule.name][0]} and {path} are both of rule {rule.name}")
        sweeps[rule.name] = (path, sweep)
    return sweeps


def _limits_thresholds(allowed: RoutingLimits) -> bool:
    return allowed.min_threshold > 0 or allowed.max_threshold is not None


def _limits(allowed: RoutingLimits) -> bool:
    return _limits_thresholds(allowed) or allowed.min_llm_usage > 0 or allowed.max_llm_usage < 1


def rule_sizes(rule: Rule, pair: ServedPair) -> ModelSizes:
    """What takes part in a token: the router where the rule asks it."""
    return pair.sizes if rule.evidence is Evidence.ROUTER else replace(pair.sizes, router=0)


def _parameters(rule: Rule, defaults: Mapping[str, float]) -> list[orchestrator_pb2.RuleParameter]:
    return [
        orchestrator_pb2.RuleParameter(
            name=name,
            description=parameter.description,
            default_value=defaults.get(name, parameter.default),
            least=parameter.least,
            most=parameter.most,
            whole=parameter.whole,
        )
        for name, parameter in rule.parameters.items()
    ]
