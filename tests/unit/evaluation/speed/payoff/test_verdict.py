import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from evaluation.speed.payoff.pages import checks_table, draw, payoff_table, times_table
from evaluation.speed.payoff.study import PLAIN, Study, StudyOptions, default_rules
from evaluation.speed.payoff.times import StepTime
from evaluation.speed.payoff.trace import RuleTraces, Trace
from evaluation.speed.payoff.verdict import judge
from services.rules.registry import Rules
from tests.unit.evaluation.speed.payoff.test_model import TIMES

OPTIONS = StudyOptions(num_streams=8, depth=4)


def study(llm_pass_s: float, measured: dict[tuple[str, int], list[float]] | None = None) -> Study:
    answer = Trace(
        5, tuple(index / 40 for index in range(40)), tuple(index % 10 != 0 for index in range(40)), (True,) * 40
    )
    rules = default_rules(0.8, Rules())
    constant = StepTime.constant(llm_pass_s)
    times = replace(TIMES, llm_pass=constant, llm_streams=constant)
    traces = {rule.rule.name: RuleTraces(rule, (answer,) * 2) for rule in rules}
    return Study(times, traces, {}, {}, measured or {})


def test_slow_llm_makes_the_pair_worth_it_and_the_sentence_names_the_fastest_rule() -> None:
    payoff = judge(study(0.05), OPTIONS)
    speedups = {row.rule: row.speedup for row in payoff.rules}
    fastest = max(("router", "entropy", "margin", "lossless"), key=lambda rule: speedups[rule])
    assert payoff.sentence().startswith(f"This pair is worth it: by {fastest} it would be")


def test_llm_that_is_faster_than_the_slm_makes_the_pair_not_worth_it() -> None:
    payoff = judge(study(0.0008), OPTIONS)
    assert payoff.sentence().startswith("This pair isn't worth it here: even its fastest rule, ")
    assert "the plain LLM writes" in payoff.sentence()


def test_sweep_begins_with_no_llm_and_ends_with_the_llm_alone() -> None:
    rows = {row.rule: row for row in judge(study(0.05), OPTIONS).rules}
    shares = [point.llm_share for point in rows["router"].sweep]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)
    assert rows["router"].sweep[0].speedup > rows["router"].sweep[-1].speedup
    assert rows["lossless"].sweep == rows["slm"].sweep == ()


def test_check_compares_ratios_within_a_repetition() -> None:
    measured = {(PLAIN, 0): [10.0, 20.0, 40.0], ("slm", 0): [30.0, 60.0, 120.0]}
    payoff = judge(study(0.05, measured), OPTIONS)
    [check] = [check for row in payoff.rules for check in row.checks]
    assert check.measured == (3.0, 3.0, 3.0)
    assert check.error == pytest.approx(check.predicted / 3 - 1)


def test_pair_without_a_router_is_judged_by_the_other_rules() -> None:
    names = [rule.rule.name for rule in default_rules(None, Rules())]
    assert names == ["entropy", "margin", "lossless", "slm", "llm"]


def test_pages_show_every_rule_and_the_figure_is_drawn(tmp_path: Path) -> None:
    measured = {(PLAIN, 4): [10.0], **{(rule.rule.name, 4): [30.0] for rule in default_rules(0.8, Rules())}}
    found = study(0.05, measured)
    payoff = judge(found, OPTIONS)
    written = io.StringIO()
    console = Console(width=200, file=written)
    for page in (times_table(payoff.times, OPTIONS), payoff_table(payoff, OPTIONS), checks_table(payoff)):
        console.print(page)
    shown = written.getvalue()
    assert all(shown.count(f" {row.rule} ") >= 2 for row in payoff.rules)
    assert {path.suffix for path in draw(payoff, tmp_path / "fit")} == {".png", ".svg"}
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())
