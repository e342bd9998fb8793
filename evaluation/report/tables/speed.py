"""Tables 3 and 5: wall-clock speed of single streams, and speculative decoding.

Source: arXiv:2505.21600 Tables 3 and 5; deviation: repetitions side by side and their whole spread instead of a
standard deviation over questions; speculative decoding is Hugging Face's assisted generation, one stream, no batches;
query-level routing has no row, since its time is a mixture of the two models' alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from evaluation.metrics import Estimate
from evaluation.records.results_files import ResultsError, Speed, SpeedRow
from evaluation.report.markdown_table import Cell, Column, ReportTable
from evaluation.report.parts import Part
from evaluation.report.stored import MissingInput, StoredResults
from evaluation.report.style import style_of
from evaluation.report.units import SizeUnit, size_unit

_LABELS = {"speculative": "speculative decoding", "llm_generate": "LLM, by `generate`"}
_IN_TABLE_5 = ("llm", "llm_generate", "speculative", "r2r")


def wall_clock(results: StoredResults) -> Part:
    """Table 3: tokens, latency and speed of every method, by LLM."""
    speed = read_speed(results)
    unit = size_unit(min(speed.llm_params_b.values(), default=0.0))
    columns = [
        Column("LLM"),
        Column("method"),
        Column(f"param. ({unit.letter})", "#.3g"),
        Column("tokens a question", ".1f"),
        Column("latency (s)", ".3f"),
        Column("speed (tokens/s)", ".1f"),
        Column("speed against the LLM's", ".2f"),
    ]
    rows = [_wall_clock_row(speed, row, unit) for row in speed.rows]
    sizes = "; ".join(
        f"`{name}`: {speed.llm_params_b[name] * unit.per_b:.3g}{unit.letter} parameters, a decoding step costs "
        f"{ratio:.1f} times the SLM's"
        for name, ratio in speed.cost_ratio.items()
        if name in speed.llm_params_b
    )
    caption = (
        f"One stream, {speed.num_questions:,} held-out questions a repetition, {_repetitions(speed)} repetitions "
        f"side by side, {speed.num_threads} CPU thread{'s' if speed.num_threads > 1 else ''}. Medians over "
        "repetitions; brackets: least and largest. Speed against the LLM's is a ratio within a repetition. "
        f"{sizes}. *Inflated*: the same LLM with layers added whose outputs are zero, so that it writes the "
        "same tokens at a realistic cost. *`generate`*: Hugging Face's own loop, which speculative decoding shares."
    )
    return Part(caption, ReportTable(columns, rows))


def speculative(results: StoredResults) -> Part:
    """Table 5: speculative decoding against the LLM alone and R2R."""
    speed = read_speed(results)
    rows = [_speculative_row(speed, row) for row in speed.rows if row.method in _IN_TABLE_5]
    if not any(row.method == "speculative" for row in speed.rows):
        raise MissingInput(f"{Speed.name}, a row of the method speculative")
    columns = (
        Column("LLM"),
        Column("method"),
        Column("speed (tokens/s)", ".1f"),
        Column("latency (s)", ".3f"),
        Column("speed against the LLM's", ".2f"),
        Column("responses equal to the LLM's (%)", ".1f"),
        Column("drafts among emitted tokens (%)", ".1f"),
    )
    caption = (
        "Speculative decoding with the SLM as draft model (Hugging Face assisted generation, greedy) against the "
        f"LLM alone and R2R; one stream, {speed.num_questions:,} held-out questions a repetition, "
        f"{_repetitions(speed)} repetitions. Medians; brackets: least and largest. The paper measures Eagle2 and "
        "HASS at batch sizes 1, 2 and 4; batches of speculative decoding are not measured here."
    )
    return Part(caption, ReportTable(columns, rows))


def read_speed(results: StoredResults) -> Speed:
    """`speed.json`.

    Raises:
        MissingInput: It isn't there.
        ResultsError: A row has no repetition.
    """
    speed = results.file(Speed)
    for at, row in enumerate(speed.rows):
        for name in ("num_tokens", "tokens_per_s", "latency_s"):
            if not getattr(row, name):
                raise ResultsError(f"{results.folder / Speed.name}: rows.{at}.{name}: no repetition")
    return speed


def relative_speed(speed: Speed, row: SpeedRow, base: str) -> Estimate | None:
    """Speed over that of the method `base` with the same LLM, repetition by repetition; None where not measured.

    A method without an LLM has no counterpart of its own and is held against the first LLM.
    """
    same = [other for other in speed.rows if other.method == base and row.llm in (None, other.llm)]
    if not same or len(same[0].tokens_per_s) != len(row.tokens_per_s):
        return None
    return _middle([mine / theirs for mine, theirs in zip(row.tokens_per_s, same[0].tokens_per_s, strict=True)])


def _wall_clock_row(speed: Speed, row: SpeedRow, unit: SizeUnit) -> list[Cell]:
    return [
        row.llm,
        _label(row),
        None if row.avg_params_b is None else row.avg_params_b * unit.per_b,
        statistics.mean(row.num_tokens) / speed.num_questions,
        _middle(row.latency_s),
        _middle(row.tokens_per_s),
        relative_speed(speed, row, "llm"),
    ]


def _speculative_row(speed: Speed, row: SpeedRow) -> list[Cell]:
    return [
        row.llm,
        _label(row),
        _middle(row.tokens_per_s),
        _middle(row.latency_s),
        relative_speed(speed, row, "llm"),
        None if row.equal_to_llm is None else 100 * row.equal_to_llm,
        None if row.accepted_rate is None else 100 * row.accepted_rate,
    ]


def _label(row: SpeedRow) -> str:
    return _LABELS.get(row.method) or style_of(row.method).label


def _middle(values: Sequence[float]) -> Estimate:
    return Estimate(statistics.median(values), min(values), max(values))


def _repetitions(speed: Speed) -> int:
    return max((len(row.tokens_per_s) for row in speed.rows), default=0)
