"""What a study says: the speed that each rule would reach, and whether the pair is worth it.

Owns the rows of the table and the one sentence above it. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.speed.payoff.model import predict, predict_plain
from evaluation.speed.payoff.passage import with_passages
from evaluation.speed.payoff.study import PLAIN, Study, StudyOptions
from evaluation.speed.payoff.times import StepTimes
from evaluation.speed.payoff.trace import RuleTraces
from services.rules.chosen import THRESHOLD
from services.rules.rule import Evidence

_SWEPT_SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class SpeedCheck:
    """A prediction beside the truth: both as multiples of the plain LLM's speed, one stream.

    Args:
        depth: Run-ahead depth.
        predicted: By the model of speed.
        measured: One value a repetition, each beside the plain LLM of that repetition.
    """

    depth: int
    predicted: float
    measured: tuple[float, ...]

    @property
    def error(self) -> float:
        """By how much the prediction is above the median of what was measured, as a share of it."""
        return self.predicted / statistics.median(self.measured) - 1


@dataclass(frozen=True, slots=True)
class SweptSpeed:
    """What another threshold would give, on the same texts.

    Args:
        threshold: Of the rule.
        llm_share: Share of the tokens that the LLM is asked about.
        speedup: Speed of one stream with run-ahead, as a multiple of the plain LLM's.
    """

    threshold: float
    llm_share: float
    speedup: float


@dataclass(frozen=True, slots=True)
class RuleSpeed:
    """What a rule would give.

    Args:
        rule: Its name.
        threshold: Of the rule; None where it has none.
        llm_share: Share of the tokens that the LLM is asked about.
        agreement: Share of its drafts that the LLM would write.
        tokens_per_s_waiting: One stream, run-ahead depth 0.
        tokens_per_s: One stream, with run-ahead.
        tokens_per_s_streams: All of many streams together, with run-ahead.
        speedup: One stream with run-ahead, as a multiple of the plain LLM's speed.
        speedup_streams: Many streams, as a multiple of the plain LLM's with as many.
        sweep: Other thresholds, by rising share; empty where the rule has none.
        checks: The predictions beside the truth; empty where nothing was measured.
    """

    rule: str
    threshold: float | None
    llm_share: float
    agreement: float
    tokens_per_s_waiting: float
    tokens_per_s: float
    tokens_per_s_streams: float
    speedup: float
    speedup_streams: float
    sweep: tuple[SweptSpeed, ...] = ()
    checks: tuple[SpeedCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class Payoff:
    """Whether a pair pays off.

    Args:
        times: What all was predicted from.
        plain_tokens_per_s: Of the LLM by itself, one stream.
        plain_tokens_per_s_streams: Likewise, of many streams together.
        rules: What each rule would give.
    """

    times: StepTimes
    plain_tokens_per_s: float
    plain_tokens_per_s_streams: float
    rules: tuple[RuleSpeed, ...]

    def sentence(self) -> str:
        """Whether the pair is worth it, in one sentence: the rules count that ask the LLM now and then."""
        best = max((row for row in self.rules if row.rule not in ("slm", "llm")), key=lambda row: row.speedup)
        if best.speedup <= 1:
            return (
                f"This pair isn't worth it here: even its fastest rule, {best.rule}, would write "
                f"{best.tokens_per_s:.0f} tokens/s, and the plain LLM writes {self.plain_tokens_per_s:.0f}."
            )
        slower = [row.rule for row in self.rules if row.rule not in ("slm", "llm") and row.speedup <= 1]
        but = f", but slower by {' and '.join(slower)}" if slower else ""
        return (
            f"This pair is worth it: by {best.rule} it would be {best.speedup:.1f} times as fast as the plain LLM, "
            f"which is asked about {best.llm_share:.0%} of the tokens{but}."
        )


def judge(study: Study, options: StudyOptions, *, hold_s: float = 0.0) -> Payoff:
    """Predicts every rule's speed.

    Args:
        study: What was found out about the pair.
        options: How it was.
        hold_s: The SLM service's `draft_hold_ms`, in seconds.
    """
    times = with_passages(study.times, study.traces, study.passages, study.passage_speeds, hold_s)
    # The LLM by itself writes what `llm` does, whose texts are those of `lossless`.
    by_llm = study.traces["llm"].traces
    plain, plain_streams = (
        predict_plain(by_llm, times, num_streams=number).tokens_per_s for number in (1, options.num_streams)
    )

    def tokens_per_s(traces: RuleTraces, depth: int, num_streams: int = 1) -> float:
        # As many answers as it takes for the end, when streams run dry, to weigh little.
        if num_streams > 1:
            traces = traces.repeated(num_streams)
        return predict(traces, times, depth=depth, num_streams=num_streams, hold_s=hold_s).tokens_per_s

    def row(name: str, traces: RuleTraces) -> RuleSpeed:
        ahead, streams = tokens_per_s(traces, options.depth), tokens_per_s(traces, options.depth, options.num_streams)
        swept = _thresholds(traces)
        sweep = [
            SweptSpeed(threshold, other.llm_share(), tokens_per_s(other, options.depth) / plain)
            for threshold in swept
            for other in [traces.with_threshold(threshold)]
        ]
        checks = [
            SpeedCheck(
                depth,
                tokens_per_s(traces, depth) / plain,
                tuple(mine / its for mine, its in zip(values, study.measured[PLAIN, depth], strict=True)),
            )
            for (measured, depth), values in study.measured.items()
            if measured == name
        ]
        return RuleSpeed(
            rule=name,
            threshold=traces.rule.threshold,
            llm_share=traces.llm_share(),
            agreement=traces.agreement(),
            tokens_per_s_waiting=tokens_per_s(traces, 0),
            tokens_per_s=ahead,
            tokens_per_s_streams=streams,
            speedup=ahead / plain,
            speedup_streams=streams / plain_streams,
            sweep=tuple(sweep),
            checks=tuple(checks),
        )

    return Payoff(times, plain, plain_streams, tuple(row(name, traces) for name, traces in study.traces.items()))


def _thresholds(traces: RuleTraces) -> Sequence[float]:
    """Thresholds that ask the LLM about given shares of these texts, falling."""
    rule = traces.rule
    if THRESHOLD not in rule.parameters or rule.evidence is Evidence.NONE:
        return []
    scores = sorted((score for trace in traces.traces for score in trace.scores), reverse=True)
    beyond = scores[0] + 1.0
    asked = [round(share * len(scores)) for share in _SWEPT_SHARES]
    found = {beyond if number == 0 else scores[number - 1] for number in asked}
    return sorted(found, reverse=True)
