"""Everything that a report is drawn from, and what to say about what isn't there.

Damaged files are errors that name the file; missing ones raise `MissingInput`, which leaves out what needs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from evaluation.records.results_files import (
    RUNS_FOLDER,
    Labeling,
    QueryRouting,
    ResultFile,
    ResultsError,
    Routers,
    Speed,
    Sweeps,
    TokenAnalysis,
)
from evaluation.records.run_records import load_all
from evaluation.report.operating_point import OperatingPoint, gather

MAIN_TARGET_LLM_USAGE = 0.10
"""The operating point that tables compare at: chosen on validation tokens, before any held-out query is looked at."""
MAKE_ALL = "make evidence"
"""Makes every file that a report is drawn from, and resumes where it stopped."""

_KINDS: tuple[type[ResultFile], ...] = (Labeling, TokenAnalysis, Routers, Sweeps, QueryRouting, Speed)

F = TypeVar("F", bound=ResultFile)


class MissingInput(Exception):
    """A table or figure can't be drawn: the message says which file is missing, and which command makes it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"missing: `{what}`; `{MAKE_ALL}` makes it")


@dataclass(frozen=True)
class StoredResults:
    """The results in a folder.

    Attributes:
        folder: The folder.
        files: The JSON files that are there, by their class.
        points: Operating points of all runs.
    """

    folder: Path
    files: Mapping[type[ResultFile], ResultFile]
    points: tuple[OperatingPoint, ...]

    @classmethod
    def load(cls, folder: Path) -> StoredResults:
        """Reads a folder.

        Raises:
            ResultsError: There is no such folder, or a JSON file is damaged.
            RecordError: A file of records is damaged.
        """
        if not folder.is_dir():
            raise ResultsError(f"{folder}: no such folder")
        files = {kind: kind.load(folder) for kind in _KINDS if (folder / kind.name).exists()}
        return cls(folder, files, tuple(gather(load_all(folder / RUNS_FOLDER))))

    def file(self, kind: type[F]) -> F:
        """A JSON file.

        Raises:
            MissingInput: It isn't there.
        """
        found = self.files.get(kind)
        if not isinstance(found, kind):
            raise MissingInput(kind.name)
        return found

    def of_method(self, method: str) -> list[OperatingPoint]:
        """Operating points of a method, from few LLM tokens to many.

        Raises:
            MissingInput: There is no run of it.
        """
        found = [point for point in self.points if point.method == method]
        if not found:
            raise MissingInput(f"{RUNS_FOLDER}/, a run of the method {method}")
        return sorted(found, key=lambda point: point.llm_tokens.sum() / point.tokens.sum())

    def single(self, method: str) -> OperatingPoint:
        """The operating point of a method that isn't tuned, such as "llm"; of several, that of most queries."""
        return max(self.of_method(method), key=lambda point: point.num_queries)

    @cached_property
    def main(self) -> OperatingPoint:
        """R2R's operating point that is compared with: its target is nearest to `MAIN_TARGET_LLM_USAGE`.

        Where no run of R2R has a target, what it used decides instead.

        Raises:
            MissingInput: There is no run of R2R.
        """
        found = self.of_method("r2r")
        with_target = [point for point in found if point.target is not None]
        return min(with_target or found, key=lambda point: abs(_budget(point) - MAIN_TARGET_LLM_USAGE))

    @property
    def main_target(self) -> float:
        """Target LLM usage rate of `main`.

        Raises:
            MissingInput: It has none.
        """
        if self.main.target is None:
            raise MissingInput(f"{RUNS_FOLDER}/, a run of the method r2r with a target LLM usage rate")
        return self.main.target

    def at_target(self, method: str, target: float) -> OperatingPoint:
        """A method at a target LLM usage rate.

        Raises:
            MissingInput: There is no such run.
        """
        for point in self.of_method(method):
            if point.target == target:
                return point
        raise MissingInput(f"{RUNS_FOLDER}/, a run of the method {method} at a target LLM usage rate of {target}")

    def nearest_in_size(self, method: str, params_b: float) -> OperatingPoint:
        """The operating point of a method whose average activated parameters are nearest to `params_b`.

        Raises:
            MissingInput: There is no run of it.
        """
        return min(self.of_method(method), key=lambda point: abs(point.avg_activated_params_b.value - params_b))

    @cached_property
    def llm_params_b(self) -> float:
        """Size of the LLM in billions of parameters.

        Raises:
            MissingInput: There are no runs.
        """
        for point in self.points:
            if "llm" in point.runs[0].model_params_b:
                return point.runs[0].model_params_b["llm"]
        raise MissingInput(f"{RUNS_FOLDER}/, a run in which the LLM took part")

    @cached_property
    def domains(self) -> list[str]:
        """Domains of the queries, in the order in which they first occur in the tables of the first run."""
        order: dict[str, None] = {}
        for point in self.points[:1]:
            for table in point.tables:
                order.update(dict.fromkeys(table["domain"].to_pylist()))
        return list(order)


def _budget(point: OperatingPoint) -> float:
    return point.llm_usage_rate.value if point.target is None else point.target
