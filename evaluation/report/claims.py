"""What the paper claims, what is measured here, and whether the one shows in the other.

A claim is *shown* where the whole 95% interval is on its side, *not shown* where all of it is on the other side, and
*undecided* where it holds the bound. The bounds are this project's own: what the reference pair was to reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.metrics import Estimate
from evaluation.records.results_files import Labeling, TokenAnalysis
from evaluation.report.figures.indicators import entropy_ratio
from evaluation.report.figures.position import profile_positions
from evaluation.report.markdown_table import Cell, Column, ReportTable, scaled, with_interval
from evaluation.report.operating_point import MIN_CORRECT, OperatingPoint, accuracy_difference, accuracy_ratio
from evaluation.report.parts import Gaps, Part
from evaluation.report.stored import MissingInput, StoredResults
from evaluation.report.style import style_of
from evaluation.report.tables.ablation import ablation_targets
from evaluation.report.tables.main import TOKEN_RULES, best_query_level
from evaluation.report.tables.speed import read_speed, relative_speed

SHOWN, NOT_SHOWN, UNDECIDED = "shown", "**not shown**", "undecided"
_ABOUT_REFERENCE_SUITE = (
    " The reference suite is synthetic: its neutral differences are there by construction, so its figures say that "
    "the road works, not how large models compare."
)


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        text: What is claimed.
        paper: What the paper measured.
        here: What is measured here.
        verdict: `SHOWN`, `NOT_SHOWN` or `UNDECIDED`.
    """

    text: str
    paper: str
    here: str
    verdict: str


def judge(measured: Estimate, bound: float) -> str:
    """Whether a figure is at least `bound`, given its interval."""
    if measured.low >= bound:
        return SHOWN
    return NOT_SHOWN if measured.high < bound else UNDECIDED


def claims(results: StoredResults) -> Part:
    """The table of claims."""
    gaps = Gaps()
    found = [claim for maker in _MAKERS for claim in gaps.fill(maker, results) or ()]
    if not found:
        raise MissingInput("runs/")
    rows: list[list[Cell]] = [[claim.text, claim.paper, claim.here, claim.verdict] for claim in found]
    columns = (Column("claim"), Column("paper"), Column("here"), Column("verdict"))
    caption = (
        "Brackets: 95% bootstrap intervals over queries, paired where two methods are compared. *Shown*: the whole "
        "interval is on the claim's side; *not shown*: all of it is on the other; *undecided*: it holds the bound."
    )
    if any(run.suite == "reference" for point in results.points for run in point.runs):
        caption += _ABOUT_REFERENCE_SUITE
    return Part(caption, ReportTable(columns, rows), tuple(gaps.lines))


def _points(estimate: Estimate) -> str:
    return f"{with_interval(scaled(estimate, 100), '+.1f')} points"


def _percent(estimate: Estimate) -> str:
    return f"{with_interval(scaled(estimate, 100), '.1f')}%"


def _few_divergent(results: StoredResults) -> list[Claim]:
    sets = results.file(Labeling).sets
    total = next((row for row in sets.get("train", []) if row.domain == "all"), None)
    if total is None:
        raise MissingInput(f"{Labeling.name}, the row all of the set train")
    different, divergent = total.num_different / total.num_tokens, total.num_divergent / total.num_tokens
    return [
        Claim(
            "Few tokens differ, and at most half of those diverge",
            "10.8% differ, 4.9% diverge",
            f"{different:.1%} differ, {divergent:.1%} diverge",
            SHOWN if divergent <= different / 2 and different < 0.2 else NOT_SHOWN,
        )
    ]


def _entropy(results: StoredResults) -> list[Claim]:
    entropy = results.file(TokenAnalysis).entropy
    ratio = entropy_ratio(entropy)
    return [
        Claim(
            "The SLM is less sure of divergent tokens than of others",
            "3.8 times the mean entropy",
            f"{ratio:.1f} times; AUC {entropy.auc:.3f}",
            SHOWN if ratio > 1 else NOT_SHOWN,
        )
    ]


def _rare_tokens(results: StoredResults) -> list[Claim]:
    bands = [band for band in results.file(TokenAnalysis).frequency if band.num_tokens]
    half = sum(band.num_tokens for band in bands) / 2
    rare, frequent, seen = [0, 0], [0, 0], 0
    for band in bands:
        side = rare if seen < half else frequent
        side[0] += band.num_divergent
        side[1] += band.num_tokens
        seen += band.num_tokens
    if not (rare[1] and frequent[1]):
        raise MissingInput(f"{TokenAnalysis.name}, at least two bands of token frequency")
    low, high = rare[0] / rare[1], frequent[0] / frequent[1]
    return [
        Claim(
            "Rare tokens diverge more often than frequent ones",
            "Figure 4(b)",
            f"{low:.1%} of the rarer half of occurrences, {high:.1%} of the other",
            SHOWN if low > high else NOT_SHOWN,
        )
    ]


def _near_llm(results: StoredResults) -> list[Claim]:
    ratio = accuracy_ratio(results.main, results.single("llm"))
    return [_at_least("R2R keeps at least 97% of the LLM's accuracy", "92%", ratio, 0.97, _percent)]


def _at_least(text: str, paper: str, ratio: Estimate | None, bound: float, told: Callable[[Estimate], str]) -> Claim:
    if ratio is None:
        return Claim(text, paper, f"fewer than {MIN_CORRECT} correct answers to compare with", UNDECIDED)
    return Claim(text, paper, told(ratio), judge(ratio, bound))


def _times(estimate: Estimate) -> str:
    return f"{with_interval(estimate, '.2f')} times"


def _small(results: StoredResults) -> list[Claim]:
    share = scaled(results.main.avg_activated_params_b, 1 / results.llm_params_b)
    verdict = judge(Estimate(-share.value, -share.high, -share.low), -0.17)
    return [Claim("… at 17% or less of its parameters", "17%", _percent(share), verdict)]


def _above_slm(results: StoredResults) -> list[Claim]:
    ratio = accuracy_ratio(results.main, results.single("slm"))
    return [_at_least("R2R answers more questions than the SLM", "4.6 times", ratio, 1.0, _times)]


def _beats_mid(results: StoredResults) -> list[Claim]:
    mid = results.single("mid")
    claim = _difference(
        "R2R beats a model of its size, trained like both others", "1.6 times R1-7B", results.main, mid
    )
    sizes = (scaled(point.avg_activated_params_b, 1 / results.llm_params_b).value for point in (results.main, mid))
    r2r_size, mid_size = (f"{size:.1%}" for size in sizes)
    return [dataclasses.replace(claim, here=f"{claim.here}, at {r2r_size} against {mid_size} of the LLM's size")]


def _beats_query_level(results: StoredResults) -> list[Claim]:
    best = best_query_level(results)
    text = "R2R reaches at least 1.4 times the accuracy of the best query-level routing at equal average parameters"
    name, ratio = style_of(best.method).label, accuracy_ratio(results.main, best)
    return [_at_least(text, "1.4 to 2.4 times", ratio, 1.4, lambda found: f"{_times(found)} {name}'s")]


def _beats_rules(results: StoredResults) -> list[Claim]:
    names = {"entropy": "an entropy threshold", "aleatoric": "aleatoric uncertainty", "random": "random tokens"}
    found = [(m, _at(results, m)) for m in TOKEN_RULES]
    if not any(point for _, point in found):
        raise MissingInput("runs/, a run of the methods entropy, aleatoric or random")
    return [
        _difference(f"R2R beats {names[m]} at equal LLM usage", "not compared", results.main, p)
        for m, p in found
        if p
    ]


def _at(results: StoredResults, method: str) -> OperatingPoint | None:
    return Gaps().fill(results.at_target, method, results.main_target)


def _difference(text: str, paper: str, a: OperatingPoint, b: OperatingPoint) -> Claim:
    difference = accuracy_difference(a, b)
    verdict = UNDECIDED if difference.low <= 0 <= difference.high else SHOWN if difference.low > 0 else NOT_SHOWN
    return Claim(text, paper, _points(difference), verdict)


def _objective(results: StoredResults) -> list[Claim]:
    return [_at_targets(results, "r2r", "different", "Labels of divergence beat labels of difference", "+15 points")]


def _inputs(results: StoredResults) -> list[Claim]:
    return [
        _at_targets(results, "r2r", "hs_tok", "Logits help: HS+Token+Logits beats HS+Token", "+8 points"),
        _at_targets(results, "hs_tok", "hs", "Token embeddings help: HS+Token beats HS", "+5 points"),
    ]


def _at_targets(results: StoredResults, a: str, b: str, text: str, paper: str) -> Claim:
    """The claim at the main target; other targets are told, but don't decide."""
    main = results.main_target
    claim = _difference(f"{text}, at equal LLM usage", paper, results.at_target(a, main), results.at_target(b, main))
    others = []
    for target in ablation_targets(results):
        left, right = (Gaps().fill(results.at_target, method, target) for method in (a, b))
        if left and right and target != main:
            others.append(f"{_points(accuracy_difference(left, right))} at {target:.0%}")
    told = f"{claim.here} at {main:.0%}" + (f" (other budgets: {'; '.join(others)})" if others else "")
    return dataclasses.replace(claim, here=told)


def _oracle(results: StoredResults) -> list[Claim]:
    oracle = results.single("oracle")
    difference = accuracy_difference(oracle, results.single("llm"))
    here = f"{_points(difference)} with {oracle.llm_usage_rate.value:.1%} of tokens by the LLM"
    text = "Path-following with the verifier in the loop is within 1 point of the LLM"
    return [Claim(text, "16 of 17 questions with 3% LLM tokens", here, judge(difference, -0.01))]


def _reply(results: StoredResults) -> list[Claim]:
    profiles = profile_positions(results.main)
    think, reply = profiles.think.overall, profiles.reply.overall
    verdict = SHOWN if reply.high < think.low else NOT_SHOWN if reply.low > think.high else UNDECIDED
    here = f"{_percent(think)} in the thinking, {_percent(reply)} in the reply"
    return [Claim("The reply needs the LLM less than the thinking", "Figure 6(a)", here, verdict)]


def _speed(results: StoredResults) -> list[Claim]:
    speed, found = read_speed(results), []
    for row in speed.rows:
        ratio = relative_speed(speed, row, "llm") if row.method == "r2r" else None
        if ratio:
            here = f"{_times(ratio)} (least and largest repetition)"
            found.append(
                Claim(f"R2R is faster than the LLM alone ({row.llm} LLM)", "2.76 times", here, judge(ratio, 1.0))
            )
    for row in speed.rows:
        ratio = relative_speed(speed, row, "speculative") if row.method == "r2r" else None
        if ratio:
            here = f"{_times(ratio)} (least and largest repetition)"
            text = f"R2R is faster than speculative decoding ({row.llm} LLM)"
            found.append(Claim(text, "1.15 to 1.18 times", here, judge(ratio, 1.0)))
    return found


_MAKERS: tuple[Callable[[StoredResults], Sequence[Claim]], ...] = (
    _few_divergent,
    _entropy,
    _rare_tokens,
    _near_llm,
    _small,
    _above_slm,
    _beats_mid,
    _beats_query_level,
    _beats_rules,
    _objective,
    _inputs,
    _oracle,
    _reply,
    _speed,
)
