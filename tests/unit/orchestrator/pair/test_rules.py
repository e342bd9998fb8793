"""Which rule a request gets, of what it, the server and the router say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trivium.v1 import common_pb2, orchestrator_pb2

from services.common.access.keys_file import RoutingLimits
from services.common.errors import InvalidRequest, NotAllowed, SweepMissing
from services.common.rule_spec import RuleSpec
from services.orchestrator.pair.check import ServedPair
from services.orchestrator.pair.rules import ServedRules, rule_sizes
from services.rules.chosen import ChosenRule
from services.rules.registry import Rules
from services.rules.rule import RuleError
from services.rules.shipped import EntropyRule, RouterRule
from services.rules.sweep import SLM_ONLY_THRESHOLD, SweepError
from tests.unit.orchestrator.pair.test_check import check, make_slm

SHA = "ab" * 32


def served(default: str = "router", *sweeps: Path, has_router: bool = True) -> ServedRules:
    return ServedRules(Rules(), RuleSpec.parse(default), sweeps, has_router=has_router)


def pair(*, has_router: bool = True, slm: common_pb2.ModelInfo | None = None) -> ServedPair:
    found = check() if has_router else check(router=None)
    if slm is not None:
        found = ServedPair(**{name: getattr(found, name) for name in ServedPair.__slots__} | {"slm": slm})
    return found


def choose(rules: ServedRules, rule: str | None = None, **fields: Any) -> ChosenRule:
    allowed, of_pair = fields.pop("allowed", None), fields.pop("pair", pair())
    request = orchestrator_pb2.GenerateRequest(**fields)
    if rule is not None:
        spec = RuleSpec.parse(rule) if rule else RuleSpec()
        request.rule.CopyFrom(orchestrator_pb2.RoutingRule(name=spec.name, parameters=spec.parameters))
    return rules.choose(request, of_pair, allowed)


def test_request_that_says_nothing_gets_the_router_at_its_calibrated_threshold() -> None:
    assert choose(served()) == ChosenRule(Rules().named("router"), {"threshold": 0.5})


@pytest.mark.parametrize(
    ("default", "rule", "fields", "name", "parameters"),
    [
        ("router", "router", {"threshold": 0.25}, "router", {"threshold": 0.25}),
        ("router:threshold=0.75", None, {}, "router", {"threshold": 0.75}),
        ("router:threshold=0.75", "router", {}, "router", {"threshold": 0.75}),
        ("router", "router:threshold=0.125", {}, "router", {"threshold": 0.125}),
        ("router", "entropy", {}, "entropy", {"threshold": 0.672}),
        ("router", "entropy", {"threshold": 2.0}, "entropy", {"threshold": 2.0}),
        ("entropy:threshold=1.5", None, {}, "entropy", {"threshold": 1.5}),
        ("entropy:threshold=1.5", "margin", {}, "margin", {"threshold": 0.5}),
        ("random:rate=0.5,seed=7", "random:rate=0.25", {}, "random", {"rate": 0.25, "seed": 7.0}),
        ("router", "lossless", {}, "lossless", {}),
        ("router", "entropy", {"target_llm_usage": 0.0}, "entropy", {"threshold": SLM_ONLY_THRESHOLD}),
        ("router", "entropy", {"target_llm_usage": 1.0}, "entropy", {"threshold": 0.0}),
    ],
)
def test_request_gets_the_rule_it_names_and_the_servers_parameters_where_it_is_silent(
    default: str, rule: str | None, fields: dict[str, float], name: str, parameters: dict[str, float]
) -> None:
    chosen = choose(served(default), rule, **fields)
    assert (chosen.rule.name, chosen.parameters) == (name, parameters)


@pytest.mark.parametrize(
    ("rule", "fields", "message"),
    [
        ("nosuch", {}, "rule: no rule 'nosuch' is installed; there are entropy, llm, lossless"),
        ("entropy:limit=1", {}, r"rule\.parameters\.limit: entropy has no such parameter"),
        ("entropy:threshold=nan", {}, r"rule\.parameters\.threshold: must be finite"),
        ("random:rate=2", {}, r"rule\.parameters\.rate: .* at most 1, got 2"),
        ("entropy:threshold=1", {"threshold": 1.0}, r"rule\.parameters\.threshold: threshold is given as well"),
        ("lossless", {"threshold": 1.0}, "threshold: rule lossless has no threshold"),
        ("slm", {"target_llm_usage": 0.1}, "target_llm_usage: rule slm has no threshold"),
    ],
)
def test_rule_that_cannot_be_had_is_refused_by_the_fields_name(
    rule: str, fields: dict[str, float], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        choose(served(), rule, **fields)


def test_pair_without_a_router_refuses_its_rule_and_names_the_others() -> None:
    rules = served("entropy", has_router=False)
    with pytest.raises(InvalidRequest, match=r"^rule: router needs a router, .* served with entropy, llm,"):
        choose(rules, "router", pair=pair(has_router=False))
    assert "router" not in [info.name for info in rules.describe(pair(has_router=False))]
    with pytest.raises(RuleError, match=r"^rule: router needs a router"):
        served("router", has_router=False)


@pytest.mark.parametrize("default", ["nosuch", "entropy:threshold=-1", "random:rate=nan", "lossless:threshold=1"])
def test_default_that_cannot_be_served_is_refused_at_the_start(default: str) -> None:
    with pytest.raises(RuleError, match=r"^rule"):
        served(default)


def sweep_file(folder: Path, **changes: Any) -> Path:
    slm: dict[str, Any] = {
        "model_id": "small",
        "revision": "",
        "vocab_size": 151_936,
        "hidden_size": 64,
        "tokenizer_sha256": SHA,
    }
    rows = [
        {"threshold": 4.0, "llm_usage_rate": 0.0},
        {"threshold": 2.0, "llm_usage_rate": 0.1},
        {"threshold": 1.0, "llm_usage_rate": 0.3},
        {"threshold": 0.0, "llm_usage_rate": 1.0},
    ]
    content = {"rule": "entropy", "version": "1", "slm": slm, "num_tokens": 10, "rows": rows} | changes
    path = folder / "sweep.json"
    path.write_text(json.dumps(content))
    return path


def swept_pair(**changes: Any) -> ServedPair:
    return pair(slm=make_slm(**({"tokenizer_sha256": SHA, "hidden_size": 64} | changes)))


def test_budget_of_a_rule_comes_from_its_sweep(tmp_path: Path) -> None:
    rules = served("router", sweep_file(tmp_path))
    assert choose(rules, "entropy", target_llm_usage=0.2, pair=swept_pair()).threshold == pytest.approx(1.5)
    # The router takes no part in it.
    params_b = rule_sizes(EntropyRule(), swept_pair()).avg_activated_params_b(0.2)
    chosen = choose(rules, "entropy", target_avg_params_b=params_b, pair=swept_pair())
    assert chosen.threshold == pytest.approx(1.5)
    assert rule_sizes(RouterRule(), swept_pair()).router > 0
    [info] = [info for info in rules.describe(swept_pair()) if info.name == "entropy"]
    assert info.has_sweep


def test_budget_without_a_sweep_or_with_that_of_another_slm_says_so(tmp_path: Path) -> None:
    with pytest.raises(SweepMissing, match=r"^target_llm_usage: there is no sweep of rule margin"):
        choose(served(), "margin", target_llm_usage=0.2)
    rules = served("router", sweep_file(tmp_path))
    with pytest.raises(SweepMissing, match=r"^target_llm_usage: .*sweep\.json: slm\.hidden_size"):
        choose(rules, "entropy", target_llm_usage=0.2, pair=swept_pair(hidden_size=65))


def test_sweep_that_is_of_no_rule_here_is_refused_at_the_start(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"rule": "nosuch"}, "rule: no rule 'nosuch'"),
        ({"rule": "router"}, "rule_sweeps: .*sweep.json is of rule router, which takes none"),
        ({"version": "0"}, "rule_sweeps: .*sweep.json is of version 0 of entropy, installed is 1"),
        ({"rows": []}, ".*sweep.json: rows"),
    ]
    for changes, message in cases:
        with pytest.raises((RuleError, SweepError), match=f"^{message}"):
            served("router", sweep_file(tmp_path, **changes))
    with pytest.raises(RuleError, match="are both of rule entropy"):
        served("router", sweep_file(tmp_path), sweep_file(tmp_path))


def test_limits_of_a_key_hold_for_every_rule(tmp_path: Path) -> None:
    usage, threshold = RoutingLimits(max_llm_usage=0.1), RoutingLimits(min_threshold=0.5)
    rules = served("router", sweep_file(tmp_path))
    # What can't keep a limit isn't served under one.
    for rule in ("llm", "lossless", "random", "slm"):
        with pytest.raises(NotAllowed, match=f"^rule: .*rule {rule} can't keep them"):
            choose(rules, rule, allowed=usage, pair=swept_pair())
    with pytest.raises(NotAllowed, match=r"^rule: .* limits are thresholds of the router, not of rule entropy"):
        choose(rules, "entropy", allowed=threshold, pair=swept_pair())
    assert choose(rules, "entropy", allowed=usage, pair=swept_pair()).threshold == pytest.approx(2.0)
    with pytest.raises(NotAllowed, match=r"^rule\.parameters\.threshold: "):
        choose(rules, "entropy:threshold=1", allowed=usage, pair=swept_pair())
    assert choose(rules, "entropy:threshold=3", allowed=usage, pair=swept_pair()).threshold == 3


def test_description_tells_what_a_request_may_set() -> None:
    infos = {info.name: info for info in served().describe(pair())}
    assert [name for name, info in infos.items() if info.is_default] == ["router"]
    [threshold] = infos["router"].parameters
    assert (threshold.name, threshold.default_value, threshold.least) == ("threshold", 0.5, 0.0)
    assert infos["random"].parameters[1].whole
    assert infos["lossless"].evidence == orchestrator_pb2.RULE_EVIDENCE_NONE
    assert not infos["slm"].needs_llm
