"""What a labelled dataset holds, counted as the paper's Table 1 counts it: `OUT/statistics.json`.

Owns counts that follow from the shards alone, so that equal datasets have equal statistics; what labelling cost is
`labeler_jobs.cost`'s.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from labeler_jobs.verifiers.verifier import Label

STATISTICS_FILE = "statistics.json"


@dataclass
class LabelCounts:
    """Counts of one domain, or of all.

    Attributes:
        num_queries: Responses that were labelled.
        num_tokens: Response tokens, the end-of-sequence token included.
        num_different: Tokens that the SLM would write differently.
        num_divergent: Those of them that change what is said.
        num_unparsable: Verdicts that couldn't be read; they count as divergent.

    Source: arXiv:2505.21600 Table 1.
    """

    num_queries: int = 0
    num_tokens: int = 0
    num_different: int = 0
    num_divergent: int = 0
    num_unparsable: int = 0

    @property
    def different_rate(self) -> float:
        """Share of tokens that are different; 0 where there are none."""
        return self.num_different / self.num_tokens if self.num_tokens else 0.0

    @property
    def divergent_rate(self) -> float:
        """Share of tokens that are divergent; 0 where there are none."""
        return self.num_divergent / self.num_tokens if self.num_tokens else 0.0


@dataclass
class LabelStatistics:
    """Counts of a labelled dataset.

    Attributes:
        domains: By domain.
        num_asked: Queries, labelled or not.
        num_unfinished: Responses that hit a limit.
        num_too_long: Queries whose prompt alone fills the context; they are among the unfinished.
    """

    domains: dict[str, LabelCounts]
    num_asked: int = 0
    num_unfinished: int = 0
    num_too_long: int = 0

    @property
    def summary(self) -> LabelCounts:
        """Counts over all domains."""
        sums = {
            field.name: sum(getattr(counts, field.name) for counts in self.domains.values())
            for field in dataclasses.fields(LabelCounts)
        }
        return LabelCounts(**sums)

    def to_json(self) -> str:
        """The file's content."""
        rows = {**dict(sorted(self.domains.items())), "summary": self.summary}
        tables = {
            name: dataclasses.asdict(counts)
            | {"different_rate": counts.different_rate, "divergent_rate": counts.divergent_rate}
            for name, counts in rows.items()
        }
        summary = tables.pop("summary")
        others = {name: value for name, value in dataclasses.asdict(self).items() if name != "domains"}
        return json.dumps({"domains": tables, "summary": summary, **others}, indent=1) + "\n"

    def table(self) -> Table:
        """The counts in the shape of Table 1."""
        table = Table(title="Labelled tokens", title_justify="left")
        table.add_column("domain")
        for column in ("queries", "tokens", "different", "rate", "divergent", "rate"):
            table.add_column(column, justify="right")
        for name, counts in [*sorted(self.domains.items()), ("all", self.summary)]:
            table.add_row(
                name,
                *(f"{counts.num_queries:,}", f"{counts.num_tokens:,}"),
                *(f"{counts.num_different:,}", f"{counts.different_rate:.1%}"),
                *(f"{counts.num_divergent:,}", f"{counts.divergent_rate:.1%}"),
            )
        table.caption = (
            f"{self.num_asked:,} queries; {self.num_unfinished:,} responses hit a limit "
            f"({self.num_too_long:,} prompts fill the context); "
            f"{self.summary.num_unparsable:,} verdicts couldn't be read"
        )
        return table


def count_labels(
    responses: Iterable[pa.RecordBatch], verdicts: Iterable[pa.RecordBatch], dataset: Iterable[pa.RecordBatch]
) -> LabelStatistics:
    """Counts the shards of a run.

    Args:
        responses: Columns query_id, domain, response_token_ids and finished.
        verdicts: Columns query_id and unparsable.
        dataset: Columns query_id, domain and label.
    """
    domains: defaultdict[str, LabelCounts] = defaultdict(LabelCounts)
    statistics = LabelStatistics({})
    domain_of: dict[str, str] = {}
    for batch in responses:
        domain_of.update(zip(*(batch.column(name).to_pylist() for name in ("query_id", "domain")), strict=True))
        statistics.num_asked += batch.num_rows
        statistics.num_unfinished += _count(pc.invert(batch.column("finished")))
        lens = pc.list_value_length(batch.column("response_token_ids"))
        statistics.num_too_long += _count(pc.equal(lens, 0))
    for batch in verdicts:
        for query_id in batch.filter(batch.column("unparsable")).column("query_id").to_pylist():
            domains[domain_of[query_id]].num_unparsable += 1
    labelled: set[str] = set()
    for batch in dataset:
        labelled.update(pc.unique(batch.column("query_id")).to_pylist())
        for domain in pc.unique(batch.column("domain")).to_pylist():
            labels = batch.filter(pc.equal(batch.column("domain"), domain)).column("label")
            counts = domains[domain]
            counts.num_tokens += len(labels)
            counts.num_different += _count(pc.greater(labels, int(Label.IDENTICAL)))
            counts.num_divergent += _count(pc.equal(labels, int(Label.DIVERGENT)))
    for query_id in labelled:
        domains[domain_of[query_id]].num_queries += 1
    statistics.domains = dict(domains)
    return statistics


def _count(flags: pa.Array) -> int:
    number: int = pc.sum(flags, min_count=0).as_py()
    return number
