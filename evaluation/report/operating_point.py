"""What the runs of one operating point say: queries as columns, seeds as rows, figures with intervals over queries.

Seeds of one operating point answer the same queries, so their responses are not independent: intervals come from
resampling queries, each with all of its responses.

Source: arXiv:2505.21600 §5.1 (average activated parameters, total cost); deviation: none. Of query-level routing, the
average is over emitted tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evaluation.metrics import Estimate, bootstrap_ratio, paired_bootstrap_difference
from evaluation.records.run_records import RecordError, Run, RunRecords

Floats = NDArray[np.float64]
MIN_CORRECT = 20
"""Correct answers that a ratio's denominator needs: of 2,000 resamples, one in 250,000 then has none of them."""
_MEASURED = ("correct", "tokens", "llm_tokens", "activated_b")


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A method at one setting, on some queries.

    Attributes:
        runs: [runs] what was run, one a seed.
        tables: [runs] rows of `RECORDS_SCHEMA`.
        question_ids: [queries] ascending.
        domains: [queries].
        correct: [runs, queries] 1 where the response is correct.
        tokens: [runs, queries] emitted tokens.
        llm_tokens: [runs, queries] those that the LLM wrote.
        activated_b: [runs, queries] billions of parameters activated, summed over the emitted tokens.
    """

    runs: tuple[Run, ...]
    tables: tuple[pa.Table, ...]
    question_ids: NDArray[np.str_]
    domains: NDArray[np.str_]
    correct: Floats
    tokens: Floats
    llm_tokens: Floats
    activated_b: Floats

    @property
    def method(self) -> str:
        """The method's name, as in `Run`."""
        return self.runs[0].method

    @property
    def target(self) -> float | None:
        """LLM usage rate that thresholds were chosen for; None where none was."""
        return self.runs[0].target_llm_usage

    @property
    def setting(self) -> str:
        """What its thresholds were, in words."""
        if self.target is not None:
            return f"thresholds chosen on validation tokens for an LLM usage rate of {self.target:.0%}"
        threshold = self.runs[0].threshold
        return "the router's default threshold" if threshold is None else f"a threshold of {threshold:g}"

    @property
    def num_queries(self) -> int:
        """Number of queries."""
        return len(self.question_ids)

    @property
    def num_seeds(self) -> int:
        """Number of runs."""
        return len(self.runs)

    def of_domain(self, domain: str | None) -> OperatingPoint:
        """The same on the queries of one domain; on all of them if None."""
        return self if domain is None else self._where(self.domains == domain)

    def _where(self, chosen: NDArray[np.bool_]) -> OperatingPoint:
        measured = {name: getattr(self, name)[:, chosen] for name in _MEASURED}
        return OperatingPoint(self.runs, self.tables, self.question_ids[chosen], self.domains[chosen], **measured)

    @cached_property
    def accuracy(self) -> Estimate:
        """Share of responses that are correct."""
        return self._per_response(self.correct)

    @cached_property
    def llm_usage_rate(self) -> Estimate:
        """Share of emitted tokens that the LLM wrote."""
        return bootstrap_ratio(self.llm_tokens.sum(axis=0), self.tokens.sum(axis=0))

    @cached_property
    def avg_activated_params_b(self) -> Estimate:
        """Average activated parameters of an emitted token, in billions."""
        return bootstrap_ratio(self.activated_b.sum(axis=0), self.tokens.sum(axis=0))

    @cached_property
    def cost_b(self) -> Estimate:
        """Parameters activated for a response, summed over its tokens, in billions."""
        return self._per_response(self.activated_b)

    @cached_property
    def tokens_per_response(self) -> Estimate:
        """Mean length of a response in tokens."""
        return self._per_response(self.tokens)

    def _per_response(self, totals: Floats) -> Estimate:
        return bootstrap_ratio(totals.sum(axis=0), np.full(self.num_queries, self.num_seeds))

    @property
    def accuracy_by_seed(self) -> Floats:
        """[runs] share of correct responses."""
        return np.asarray(self.correct.mean(axis=1))

    @property
    def usage_by_seed(self) -> Floats:
        """[runs] share of emitted tokens that the LLM wrote."""
        return np.asarray(self.llm_tokens.sum(axis=1) / self.tokens.sum(axis=1))

    @property
    def params_b_by_seed(self) -> Floats:
        """[runs] average activated parameters of an emitted token, in billions."""
        return np.asarray(self.activated_b.sum(axis=1) / self.tokens.sum(axis=1))

    @property
    def cost_b_by_seed(self) -> Floats:
        """[runs] parameters activated for a response, summed over its tokens, in billions."""
        return np.asarray(self.activated_b.mean(axis=1))


def accuracy_difference(a: OperatingPoint, b: OperatingPoint) -> Estimate:
    """Accuracy of `a` minus that of `b`, on the queries that both answered, query by query."""
    left, right = _on_common_queries(a, b)
    return paired_bootstrap_difference(left, right)


def accuracy_ratio(a: OperatingPoint, b: OperatingPoint) -> Estimate | None:
    """Accuracy of `a` over that of `b`, on the queries that both answered, query by query.

    Returns:
        The ratio; None where `b` answers so few questions that a resample may hold none of them.
    """
    left, right = _on_common_queries(a, b)
    return bootstrap_ratio(left, right) if right.sum() >= MIN_CORRECT else None


def _on_common_queries(a: OperatingPoint, b: OperatingPoint) -> tuple[Floats, Floats]:
    _, in_a, in_b = np.intersect1d(a.question_ids, b.question_ids, assume_unique=True, return_indices=True)
    if not len(in_a):
        raise RecordError(f"{a.runs[0].run_id}.parquet and {b.runs[0].run_id}.parquet have no question in common")
    return a.correct.mean(axis=0)[in_a], b.correct.mean(axis=0)[in_b]


def gather(records: Sequence[RunRecords]) -> list[OperatingPoint]:
    """Groups runs into operating points: one method, one target, or one threshold where there is no target.

    Runs of several suites are joined, so that a suite's domains stand beside another's.

    Args:
        records: All runs.

    Returns:
        The points, in the order in which their first run stands in `records`.

    Raises:
        RecordError: Two runs are of the same seed, or the seeds of a point answered different questions, or a run is
            empty, has a question twice or doesn't state the size of a model that answered.
    """
    groups: dict[object, dict[int | None, dict[str, RunRecords]]] = {}
    for one in records:
        run = one.run
        setting = ("threshold", run.threshold) if run.target_llm_usage is None else ("target", run.target_llm_usage)
        suites = groups.setdefault((run.method, setting), {}).setdefault(run.seed, {})
        if run.suite in suites:
            raise RecordError(
                f"{run.run_id}.parquet: the same method, target and seed as {suites[run.suite].run.run_id}"
            )
        suites[run.suite] = one
    return [_point(by_seed) for by_seed in groups.values()]


def _point(by_seed: Mapping[int | None, Mapping[str, RunRecords]]) -> OperatingPoint:
    runs, tables, rows = [], [], []
    for suites in by_seed.values():
        parts = [(one, _columns(one)) for _, one in sorted(suites.items())]
        runs.append(parts[0][0].run)
        tables.append(pa.concat_tables([one.table for one, _ in parts]))
        rows.append({name: np.concatenate([columns[name] for _, columns in parts]) for name in parts[0][1]})
        if not np.array_equal(rows[-1]["question_ids"], rows[0]["question_ids"]):
            raise RecordError(
                f"{runs[-1].run_id}.parquet: field question_id: not the questions of {runs[0].run_id}.parquet, "
                "another seed of the same method"
            )
    measured = {name: np.stack([row[name] for row in rows]) for name in _MEASURED}
    return OperatingPoint(tuple(runs), tuple(tables), rows[0]["question_ids"], rows[0]["domains"], **measured)


def _columns(records: RunRecords) -> dict[str, NDArray[np.generic]]:
    table, params, file = (
        records.table.sort_by("question_id"),
        records.run.model_params_b,
        f"{records.run.run_id}.parquet",
    )
    if not table.num_rows:
        raise RecordError(f"{file}: holds no rows")
    ids = table["question_id"].to_pylist()
    if len(set(ids)) < len(ids):
        raise RecordError(f"{file}: field question_id: a question occurs twice")
    tokens = table["num_tokens"].to_numpy().astype(np.float64)
    model = np.asarray(table["model"].to_pylist(), dtype=np.str_)
    routed = np.asarray([len(positions) for positions in table["llm_positions"].to_pylist()], dtype=np.float64)
    llm_tokens = np.where(model == "llm", tokens, np.where(model == "routed", routed, 0.0))
    activated_b = np.zeros(len(tokens))
    try:
        for name in np.unique(model):
            rows = model == name
            if name == "routed":
                activated_b[rows] = records.run.sizes.activated_params_b(tokens[rows], llm_tokens[rows])
            else:
                activated_b[rows] = params[str(name)] * tokens[rows]
    except KeyError as error:
        raise RecordError(f"{file}: model_params_b lacks {error}, which answered questions") from error
    return {
        "question_ids": np.asarray([f"{records.run.suite}/{one}" for one in ids], dtype=np.str_),
        "domains": np.asarray(table["domain"].to_pylist(), dtype=np.str_),
        "correct": table["correct"].to_numpy(zero_copy_only=False).astype(np.float64),
        "tokens": tokens,
        "llm_tokens": llm_tokens,
        "activated_b": activated_b,
    }
