"""`trivium evaluate run`: asks a running pair a benchmark's questions.

Owns the progress bar and the summary; what is asked, graded and kept is `evaluation.live.run`'s.
"""

from __future__ import annotations

import shlex
import sys
from typing import Any

from evaluation.graders.sandbox import SandboxUnavailable
from evaluation.live.client import LiveError
from evaluation.live.journal import JournalError
from evaluation.live.run import LiveRun, SuiteProgress, run_live
from evaluation.records.run_records import RunRecords
from evaluation.suites.registry import open_suite
from evaluation.suites.suite import Suite
from labeler_jobs.queries.rows import QueryError
from services.cli.console import err, note, out
from services.cli.errors import CliError
from services.common.progress import progress_bar

_INTERRUPTED = 130


def opened_suite(name: str, *, allow_unisolated: bool) -> Suite[Any]:
    """A suite by its name.

    Args:
        name: One of `registry.SUITE_NAMES`.
        allow_unisolated: Run a model's programs even where the kernel can't isolate them.

    Raises:
        CliError: The kernel can't, and that isn't allowed.
    """
    try:
        return open_suite(name, allow_unisolated=allow_unisolated)
    except SandboxUnavailable as error:
        raise CliError(
            f"{error}; `trivium evaluate sandbox` tells what is missing, and --allow-unisolated-code runs them with "
            "less protection"
        ) from error


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
    except (QueryError, LiveError, JournalError) as error:
        raise CliError(str(error)) from error
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
