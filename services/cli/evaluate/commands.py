"""`trivium evaluate`, `trivium bench` and `trivium fit`.

Owns the command line alone; what runs is imported when it runs.
"""

from __future__ import annotations

from pathlib import Path

import typer

from services.cli import options as opt
from services.cli.evaluate import options as own
from services.cli.pair import options as pair_own

evaluate_app = typer.Typer(
    name="evaluate",
    help="Runs benchmarks against a running pair, and draws tables and figures from what they left.",
    no_args_is_help=True,
)


@evaluate_app.command()
def evidence(
    build: own.Build = Path("build/evidence"),
    results: own.KeptResults = Path("evaluation/results"),
    jobs: own.Jobs = 2,
    only: own.Only = None,
) -> None:
    """Gathers labels, routers, baselines and ablations of the reference pair (hours on two cores).

    Steps, in order: labels, labeling (statistics and cost), routers (every config and seed), calibration
    (thresholds), tokens (what tells divergent tokens), decode (all runs), oracle (the verifier in the
    loop), queries (query-level routing), mid (the mid-size model), speed.

    A step whose output is there is skipped, and one that was cut short goes on: the same command starts, resumes and
    finishes. Delete an output to have it made again. `trivium evaluate report` draws what is there.
    """
    from services.cli.evaluate.evidence import run_evidence

    run_evidence(build=build, results=results, num_jobs=jobs, only=only or ())


@evaluate_app.command()
def run(
    suite: own.Suite,
    data: own.Data = "",
    grader: own.GraderOfRows = None,
    verifier: own.JudgeUrl = None,
    first_day: own.FirstDay = None,
    last_day: own.LastDay = None,
    address: opt.Address = None,
    rule: opt.RoutingRule = None,
    threshold: opt.Threshold = None,
    target_llm_usage: own.TargetLlmUsage = None,
    target_avg_params_b: own.TargetAvgParams = None,
    max_new_tokens: opt.MaxNewTokens = None,
    limit: own.Limit = None,
    concurrency: own.Concurrency = 8,
    seed: own.Seed = 0,
    out: own.RunOut = Path("results"),
    run_id: own.RunId = "",
    allow_unisolated_code: own.AllowUnisolatedCode = False,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Asks a running pair all questions of a benchmark, and grades the answers.

    The LLM alone is --threshold 0, the SLM alone --threshold 2. Finished questions are kept at once: after Ctrl-C, an
    error or a kill, the same command asks only the others.

    trivium evaluate run --suite aime --target-llm-usage 0.13 --max-new-tokens 32768 --out results

    Your own questions are a file. A row has a question (or a prompt, which is asked as it is), an answer, and what
    grades it: choice, number, exact (the last line or box), regex, program (by tests) or verifier (a model behind
    --verifier). It may have an id and a domain. In CSV, choices and tests are JSON. Four rows:

    {"question": "Boiling point of water at 1 bar, in °C?", "answer": 100, "grader": "number"}

    {"question": "Which is prime?", "choices": ["8", "9", "11"], "answer": "C", "grader": "choice"}

    {"question": "Capital of Peru?", "answer": "(?i)lima", "grader": "regex"}

    {"question": "Add two numbers.", "tests": [{"input": "1 2", "output": "3"}], "grader": "program"}

    trivium evaluate run --suite questions.jsonl --out results
    """
    from evaluation.live.client import Asking
    from evaluation.suites.registry import is_own
    from services.cli.ask.answer import find_address
    from services.cli.ask.client import check_answers
    from services.cli.channel import client_options

    targets = {"--target-llm-usage": target_llm_usage, "--target-avg-params-b": target_avg_params_b}
    given = [name for name, value in {"--threshold": threshold, **targets}.items() if value is not None]
    if len(given) > 1:
        raise typer.BadParameter(f"{given[0]} is given as well; give one of them", param_hint=given[1])
    if Path(run_id).name != run_id:
        raise typer.BadParameter("it is the name of a file, not a path", param_hint="--run-id")
    try:
        asking = Asking(threshold, target_llm_usage, max_new_tokens, rule, target_avg_params_b)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rule") from error
    where = find_address(address, state_dir)
    from evaluation.live.run import LiveRun
    from evaluation.records.commit import code_commit
    from services.cli.evaluate.run import SuiteOptions, opened_suite, run_evaluation, this_command

    opened = opened_suite(
        SuiteOptions(suite, data, grader, verifier, first_day, last_day, allow_unisolated=allow_unisolated_code)
    )
    # The questions' data may take minutes.
    check_answers(where)
    run_evaluation(
        LiveRun(
            suite=opened,
            source=data or suite if is_own(suite) else data,
            seed=seed,
            limit=limit,
            asking=asking,
            address=where,
            concurrency=concurrency,
            results=out,
            run_id=run_id,
            command=this_command(),
            commit=code_commit(),
            client_options=client_options(),
        )
    )


@evaluate_app.command()
def report(results: own.StoredResults = Path("evaluation/results"), out: own.ReportOut = None) -> None:
    """Draws every table and figure anew from stored results; no model runs.

    What lacks its input is left out, and `report.md` names the file that is missing and the command that makes it.
    """
    from services.cli.evaluate.report import run_report

    run_report(results, out or results / "report")


@evaluate_app.command()
def sandbox() -> None:
    """Tells what this machine offers for running a model's programs apart, and what is missing.

    Ends with 1 where programs would be refused.
    """
    from services.cli.evaluate.sandbox import show_sandbox

    show_sandbox()


def bench(
    repetitions: own.Repetitions = 5,
    depth: own.Depth = 12,
    http: own.Http = False,
    json_path: own.JsonFile = None,
    start_timeout_s: opt.StartTimeout = 600.0,
) -> None:
    """Measures tokens/s of the reference pair's services against the same models in one process."""
    from services.cli.evaluate.bench import run_bench, run_front_door_bench

    if http:
        run_front_door_bench(repetitions=repetitions, json_path=json_path, start_timeout_s=start_timeout_s)
        return
    run_bench(repetitions=repetitions, depth=depth, json_path=json_path, start_timeout_s=start_timeout_s)


def fit(
    pair: own.FitPair = "reference",
    prompts: own.Prompts = None,
    limit: own.NumPrompts = 6,
    max_new_tokens: own.FitTokens = 256,
    streams: own.Streams = 8,
    depth: own.Depth = 12,
    rounds: own.Rounds = 5,
    measure: own.Measure = 0,
    figure: own.Figure = None,
    json_path: own.JsonFile = None,
    engine: opt.EngineName = None,
    router_checkpoint: pair_own.RouterCheckpoint = None,
    allow_other_slm: opt.AllowOtherSlm = False,
    start_timeout_s: opt.StartTimeout = 600.0,
) -> None:
    """Tells whether a pair will pay off here: what speed and LLM share each rule would reach.

    Starts the pair, measures what the steps of both models and the router take, and has each rule decide about a few
    answers. From that it predicts speeds, beside the LLM's by itself.

    trivium fit reference --measure 5 --figure fit.png
    """
    from evaluation.speed.payoff.study import StudyOptions
    from services.cli.evaluate.payoff import PayoffOptions, run_payoff
    from services.cli.pair.up import chosen_pair

    # A default rule that asks no router: a pair that has none is studied as well.
    chosen = chosen_pair(
        pair, engine and engine.value, router_checkpoint, allow_other_slm=allow_other_slm, rule="entropy"
    )
    run_payoff(
        PayoffOptions(
            pair=chosen,
            study=StudyOptions(
                num_prompts=limit,
                max_new_tokens=max_new_tokens,
                num_streams=streams,
                depth=depth,
                rounds=rounds,
                repetitions=measure,
            ),
            prompts=prompts,
            figure=figure,
            json_path=json_path,
            start_timeout_s=start_timeout_s,
        )
    )


def add_commands(app: typer.Typer) -> None:
    """Adds this family's commands."""
    app.command()(bench)
    app.command()(fit)
    app.add_typer(evaluate_app)
