"""Options of `trivium evaluate`, `trivium bench` and `trivium fit`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import MAX_AT_A_TIME, MAX_COUNT, MAX_SEED, output_file

SUITES = "aime|gpqa|livecodebench|reference|FILE"

Suite = Annotated[
    str,
    typer.Option(
        "--suite", metavar=SUITES, help="The benchmark; or your own questions, as JSON, JSONL, CSV or Parquet."
    ),
]
GraderOfRows = Annotated[
    str | None,
    typer.Option(
        "--grader",
        metavar="choice|number|exact|regex|program|verifier",
        help="FILE: grades the rows that name none.",
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        "--verifier",
        metavar="URL",
        help="FILE: the OpenAI-compatible endpoint that grades rows with the grader `verifier`; TRIVIUM_VERIFIER_… "
        "sets it up.",
    ),
]
FirstDay = Annotated[
    datetime | None,
    typer.Option(
        "--first-day",
        formats=["%Y-%m-%d"],
        help="livecodebench: problems from this day on.",
        show_default="2024-08-01",
    ),
]
LastDay = Annotated[
    datetime | None,
    typer.Option(
        "--last-day", formats=["%Y-%m-%d"], help="livecodebench: and up to this one.", show_default="2025-01-31"
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="FILE|DIR|DATASET",
        help="JSON, JSONL, CSV or Parquet in the schema that the suite is published in, or a Hugging Face dataset, "
        "`org/name@revision`.",
        show_default="what the suite is published as",
    ),
]
TargetLlmUsage = Annotated[
    float | None,
    typer.Option(
        "--target-llm-usage",
        min=0.0,
        max=1.0,
        help="Share of tokens that the LLM may write on average; the orchestrator finds the threshold for it.",
        show_default="the router's calibrated threshold",
    ),
]
TargetAvgParams = Annotated[
    float | None,
    typer.Option(
        "--target-avg-params-b",
        min=0.0,
        metavar="BILLIONS",
        help="Parameters that a token may take on average; the orchestrator finds the threshold for it.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, max=MAX_COUNT, help="Asks the first questions only.", show_default="all"),
]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, max=MAX_AT_A_TIME, help="Questions at a time.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=MAX_SEED, help="Draws the order of options in multiple choice.")
]
RunOut = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="For `runs/RUN_ID.parquet` and, beside it, its journal.")
]
RunId = Annotated[
    str, typer.Option("--run-id", help="Names the run.", show_default="from suite, method and threshold")
]
AllowUnisolatedCode = Annotated[
    bool,
    typer.Option(
        "--allow-unisolated-code",
        help="Runs the programs that a model wrote even where the kernel can't isolate them: they can then read "
        "and write your files, end your processes, and may reach the network.",
    ),
]

StoredResults = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="Holds `runs/*.parquet` and the JSON beside it.")
]
ReportOut = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="For tables and figures.", show_default="DIR/report")
]

Build = Annotated[
    Path, typer.Option("--build", metavar="DIR", help="For what is large: labels, routers, checkpoints.")
]
KeptResults = Annotated[Path, typer.Option("--results", metavar="DIR", help="For what is small and kept.")]
Jobs = Annotated[int, typer.Option("--jobs", min=1, max=MAX_AT_A_TIME, help="Decodes at a time, one thread each.")]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="STEP", help="Runs this step alone. May be repeated.")
]

Repetitions = Annotated[int, typer.Option("--repetitions", min=1, max=MAX_COUNT, help="Turns of every setting.")]
Depth = Annotated[int, typer.Option("--depth", min=1, max=64, help="Run-ahead depth to compare with 0.")]
Http = Annotated[
    bool,
    typer.Option(
        "--http", help="Measures OpenAI's API against gRPC instead, both at the depth that the services choose."
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", callback=output_file, help="File for all values.")]

FitPair = Annotated[str, typer.Argument(metavar="PAIR", help="A pair that ships with Trivium, or a YAML file.")]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="JSON, JSONL or Parquet, a prompt a row in the fields `query` and `domain`. Models cache what was asked "
        "before, so that --measure wants many prompts.",
        show_default="queries of the reference suite",
    ),
]
NumPrompts = Annotated[
    int, typer.Option("--limit", min=1, max=MAX_COUNT, help="Answers that each rule writes, a turn.")
]
FitTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=1, max=MAX_COUNT, help="Tokens of an answer at most.")
]
Streams = Annotated[
    int, typer.Option("--streams", min=2, max=MAX_AT_A_TIME, help="Number of streams to predict beside one.")
]
Rounds = Annotated[int, typer.Option("--rounds", min=1, max=MAX_COUNT, help="Times that step times are measured.")]
Measure = Annotated[
    int,
    typer.Option(
        "--measure",
        metavar="TIMES",
        min=0,
        max=MAX_COUNT,
        help="Measures each rule's true speed this many times as well, in turns with the plain LLM, and shows how "
        "far off the predictions are.",
    ),
]
Figure = Annotated[
    Path | None,
    typer.Option(
        "--figure",
        metavar="FILE",
        callback=output_file,
        help="Draws speed against the LLM's share, as PNG and SVG of this name.",
    ),
]
