"""`trivium evaluate`: its subcommands and their options.

Owns the command line alone; what is asked, graded and drawn is `evaluation`'s. Nothing heavy is imported until a
subcommand runs.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.cli import options as opt
from services.cli.evidence_command import evidence


class SuiteName(StrEnum):
    """A benchmark."""

    AIME = "aime"
    GPQA = "gpqa"
    LIVECODEBENCH = "livecodebench"
    REFERENCE = "reference"


evaluate_app = typer.Typer(
    name="evaluate",
    help="Runs benchmarks against a running pair, and draws tables and figures from what they left.",
    no_args_is_help=True,
)
evaluate_app.command()(evidence)


@evaluate_app.command()
def run(
    suite: Annotated[SuiteName, typer.Option("--suite", help="The benchmark.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="FILE|DIR|DATASET",
            help="JSON, JSONL or Parquet in the schema that the suite is published in, or a Hugging Face dataset, "
            "`org/name@revision`.",
            show_default="what the suite is published as",
        ),
    ] = "",
    address: opt.Address = None,
    threshold: opt.Threshold = None,
    target_llm_usage: Annotated[
        float | None,
        typer.Option(
            "--target-llm-usage",
            min=0.0,
            max=1.0,
            help="Share of tokens that the LLM may write on average; the orchestrator finds the threshold for it.",
            show_default="the router's calibrated threshold",
        ),
    ] = None,
    max_new_tokens: opt.MaxNewTokens = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Asks the first questions only.", show_default="all")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Questions at a time.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the order of options in multiple choice.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="For `runs/RUN_ID.parquet` and, beside it, its journal.")
    ] = Path("results"),
    run_id: Annotated[
        str, typer.Option("--run-id", help="Names the run.", show_default="from suite, method and threshold")
    ] = "",
    allow_unisolated_code: Annotated[
        bool,
        typer.Option(
            "--allow-unisolated-code",
            help="Runs the programs that a model wrote even where the kernel can't isolate them: they can then read "
            "and write your files and reach the network.",
        ),
    ] = False,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Asks a running pair all questions of a benchmark, and grades the answers.

    The LLM alone is --threshold 0, the SLM alone --threshold 2. Finished questions are kept at once: after Ctrl-C, an
    error or a kill, the same command asks only the others.

    trivium evaluate run --suite aime --target-llm-usage 0.13 --max-new-tokens 32768 --out results
    """
    from evaluation.live.client import Asking
    from evaluation.live.run import LiveRun
    from evaluation.records.commit import code_commit
    from services.cli.answer import find_address
    from services.cli.evaluate_run import opened_suite, run_evaluation, this_command

    if threshold is not None and target_llm_usage is not None:
        raise typer.BadParameter("a threshold is given as well; give one of them", param_hint="--target-llm-usage")
    if Path(run_id).name != run_id:
        raise typer.BadParameter("it is the name of a file, not a path", param_hint="--run-id")
    run_evaluation(
        LiveRun(
            suite=opened_suite(suite.value, allow_unisolated=allow_unisolated_code),
            source=data,
            seed=seed,
            limit=limit,
            asking=Asking(threshold, target_llm_usage, max_new_tokens),
            address=find_address(address, state_dir),
            concurrency=concurrency,
            results=out,
            run_id=run_id,
            command=this_command(),
            commit=code_commit(),
        )
    )


@evaluate_app.command()
def report(
    results: Annotated[
        Path, typer.Option("--results", metavar="DIR", help="Holds `runs/*.parquet` and the JSON beside it.")
    ] = Path("evaluation/results"),
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="For tables and figures.", show_default="DIR/report")
    ] = None,
) -> None:
    """Draws every table and figure anew from stored results; no model runs.

    What lacks its input is left out, and `report.md` names the file that is missing and the command that makes it.
    """
    from services.cli.draw_report import run_report

    run_report(results, out or results / "report")
