"""Tables 1 and 6: what labelling found, and what it cost.

Source: arXiv:2505.21600 Tables 1 and 6; deviation: cost in seconds on the machine that labelled, not in GPU hours,
and with the tokens that a stage handled, so that costs of different amounts of data compare.
"""

from __future__ import annotations

from evaluation.records.results_files import DomainLabels, Labeling, StageCost
from evaluation.report.markdown_table import Column, ReportTable
from evaluation.report.parts import Part
from evaluation.report.stored import StoredResults

STAGE_NAMES = {
    "responses": "LLM response",
    "prefill": "SLM prefill",
    "continuations": "LLM continuation",
    "verdicts": "verify",
    "dataset": "join into the dataset",
}
"""The paper's names of the stages."""

_LABEL_COLUMNS = (
    Column("set"),
    Column("domain"),
    Column("queries", ",d"),
    Column("tokens", ",d"),
    Column("different", ",d"),
    Column("different (%)", ".1f"),
    Column("divergent", ",d"),
    Column("divergent (%)", ".2f"),
    Column("unparsable verdicts", ",d"),
)
_COST_COLUMNS = (
    Column("set"),
    Column("stage"),
    Column("seconds", ",.1f"),
    Column("share of time (%)", ".1f"),
    Column("tokens", ",d"),
    Column("tokens/s", ",.0f"),
)


def label_statistics(results: StoredResults) -> Part:
    """Table 1: different and divergent tokens by domain, of every labelled set."""
    labeling = results.file(Labeling)
    rows = [_label_row(name, row) for name, domains in labeling.sets.items() for row in domains]
    caption = (
        "Labels of every token of the LLM's greedy responses. *Different*: given the same prefix, the SLM's greedy "
        "token is another one. *Divergent*: with the SLM's token in its place, the LLM's sentence comes to mean "
        "something else. All counts are complete, so there are no intervals. In the paper (Table 1), 10.8% of "
        "tokens differ and 4.9% diverge."
    )
    return Part(caption, ReportTable(_LABEL_COLUMNS, rows))


def _label_row(name: str, row: DomainLabels) -> list[str | int | float | None]:
    tokens = max(row.num_tokens, 1)
    return [
        name,
        row.domain,
        row.num_queries,
        row.num_tokens,
        row.num_different,
        100 * row.num_different / tokens,
        row.num_divergent,
        100 * row.num_divergent / tokens,
        row.num_unparsable,
    ]


def labeling_cost(results: StoredResults) -> Part:
    """Table 6: time by stage, of every labelled set."""
    labeling = results.file(Labeling)
    rows = [row for name, stages in labeling.cost.items() for row in _cost_rows(name, stages)]
    caption = (
        "Time that each stage of labelling took, summed over shards, and the tokens that it wrote or read. One run "
        "on one machine, so there are no intervals. In the paper (Table 6), responses take 62% of the GPU hours, "
        "prefill 0.1%, continuation 12% and verification 25%."
    )
    return Part(caption, ReportTable(_COST_COLUMNS, rows))


def _cost_rows(name: str, stages: list[StageCost]) -> list[list[str | int | float | None]]:
    total_s = sum(stage.seconds for stage in stages)
    rows: list[list[str | int | float | None]] = []
    for stage in stages:
        share = 100 * stage.seconds / total_s if total_s else None
        speed = stage.num_tokens / stage.seconds if stage.seconds else None
        rows.append([name, STAGE_NAMES.get(stage.stage, stage.stage), stage.seconds, share, stage.num_tokens, speed])
    return [*rows, [name, "total", total_s, 100.0 if total_s else None, None, None]]
