"""`trivium evaluate run`: asks a running pair a benchmark's questions.

Owns the progress bar and the summary; what is asked, graded and kept is `evaluation.live.run`'s.
"""

from __future__ import annotations

import datetime
import shlex
import sys
from dataclasses import dataclass
from typing import Any

import typer

from evaluation.graders.sandbox import SandboxUnavailable
from evaluation.live.client import LiveError
from evaluation.live.journal import JournalError
from evaluation.live.run import LiveRun, SuiteProgress, run_live
from evaluation.records.run_records import RunRecords
from evaluation.suites.livecodebench import LiveCodeBenchSuite
from evaluation.suites.registry import SUITE_NAMES, is_own, open_own, open_suite
from evaluation.suites.suite import Suite
from labeler_jobs.queries.rows import QueryError
from labeler_jobs.verifiers.names import VerifierChoiceError
from labeler_jobs.verifiers.verifier import VerifierUnreachable
from services.cli.console import err, note, out
from services.cli.errors import CliError
from services.common.progress import progress_bar

_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """Which questions are asked, and who grades."""

    name: str
    data: str = ""
    grader: str | None = None
    verifier: str | None = None
    first_day: datetime.datetime | None = None
    last_day: datetime.datetime | None = None
    allow_unisolated: bool = False


def opened_suite(options: SuiteOptions) -> Suite[Any]:
    """The suite that is asked for, by its name or by its file.

    Raises:
        BadParameter: There is no such suite, or an option belongs to another one.
        CliError: A model's programs can't be isolated here, and that isn't allowed.
    """
    own = is_own(options.name)
    if not own and options.name not in SUITE_NAMES:
        raise typer.BadParameter(
            f"no suite {options.name!r}; there are {', '.join(SUITE_NAMES)}, and files of your own questions",
            param_hint="--suite",
        )
    _check_belonging(options, own)
    try:
        if own:
            return open_own(
                options.name,
                grader=options.grader,
                verifier=options.verifier,
                allow_unisolated=options.allow_unisolated,
            )
        first, last = (day and day.date() for day in (options.first_day, options.last_day))
        return open_suite(options.name, allow_unisolated=options.allow_unisolated, first_day=first, last_day=last)
    except QueryError as error:
        raise CliError(str(error)) from error
    except SandboxUnavailable as error:
        raise _unisolated(error) from error


def _check_belonging(options: SuiteOptions, own: bool) -> None:
    if own and options.data:
        raise typer.BadParameter("--suite is a file of questions already", param_hint="--data")
    for name, value in {"--grader": options.grader, "--verifier": options.verifier}.items():
        if value is not None and not own:
            raise typer.BadParameter(f"{options.name} has its own grader; it goes with --suite FILE", param_hint=name)
    for name, day in {"--first-day": options.first_day, "--last-day": options.last_day}.items():
        if day is not None and options.name != LiveCodeBenchSuite.name:
            raise typer.BadParameter(f"goes with --suite {LiveCodeBenchSuite.name} alone", param_hint=name)
    first, last = options.first_day, options.last_day
    if first is not None and last is not None and first > last:
        raise typer.BadParameter(f"{last:%Y-%m-%d} is before --first-day", param_hint="--last-day")


def _unisolated(error: SandboxUnavailable) -> CliError:
    return CliError(
        f"{error}; `trivium evaluate sandbox` tells what is missing, and --allow-unisolated-code runs them with less "
        "protection"
    )


def run_evaluation(live: LiveRun) -> None:
    """Runs a suite, with a progress bar, and sums it up.

    Args:
        live: The run; its suite is closed in the end.

    Raises:
        CliError: It can't be finished; what is finished is kept.
    """
    try:
        with progress_bar("{task.fields[accuracy]}", console=err) as bar:
            task = bar.add_task(f"{live.suite.name}, {live.method}", total=None, accuracy="")

            def show(progress: SuiteProgress) -> None:
                accuracy = f"{progress.num_correct / progress.num_done:.1%} correct" if progress.num_done else ""
                bar.update(task, completed=progress.num_done, total=progress.num_questions, accuracy=accuracy)

            path, records = run_live(live, show)
    except (QueryError, LiveError, JournalError, VerifierChoiceError) as error:
        raise CliError(str(error)) from error
    except VerifierUnreachable as error:
        raise CliError(f"{error}; finished questions are kept") from error
    except SandboxUnavailable as error:
        raise _unisolated(error) from error
    except KeyboardInterrupt:
        note("stopped; the same command goes on from here")
        sys.exit(_INTERRUPTED)
    finally:
        live.suite.close()
    out.print(summary(records))
    note(f"records: {path}")


def this_command() -> str:
    """The command line that makes this run again."""
    return shlex.join(["trivium", *sys.argv[1:]])


def summary(records: RunRecords) -> str:
    """A run in one line."""
    rows = records.table.to_pylist()
    num_tokens = sum(row["num_tokens"] for row in rows)
    share = sum(row["correct"] for row in rows) / len(rows)
    parts = [f"{records.run.run_id}: {share:.1%} of {len(rows)} correct", f"{num_tokens / len(rows):.0f} tokens each"]
    if records.run.method == "r2r":
        num_llm_tokens = sum(len(row["llm_positions"]) for row in rows)
        parts.append(f"{num_llm_tokens / num_tokens:.1%} by the LLM (threshold {records.run.threshold:.4g})")
    num_cut = sum(not row["finished"] for row in rows)
    if num_cut:
        parts.append(f"{num_cut} cut off at the token limit")
    latencies = sorted(row["latency_s"] for row in rows)
    parts.append(f"{latencies[len(latencies) // 2]:.1f} s in the median")
    return " · ".join(parts)
