"""`trivium train`, `trivium import-router` and `trivium calibrate`.

Owns the command line alone; what runs is imported when it runs.
"""

from __future__ import annotations

import typer

from services.cli import options as opt
from services.cli.errors import CliError
from services.cli.train import options as own


def train(
    data: own.Data,
    validation: own.TrainValidation,
    out: own.Out,
    config: own.Config = "reference",
    pair: opt.PairName = "reference",
    seed: own.Seed = 1,
    target_llm_usage: own.TargetLlmUsage = None,
    target_recall: own.TargetRecall = None,
    target_avg_params_b: own.TargetAvgParams = None,
    device: own.Device = None,
    threads: own.Threads = 0,
    with_embedding: own.WithEmbedding = False,
    allow_other_slm: own.AllowOtherSlm = False,
    overwrite: own.Overwrite = False,
) -> None:
    """Trains a router, calibrates its threshold and writes its checkpoint.

    Recipes: r2r-56m (the paper's), reference, and its ablations reference-different, reference-hs-tok, reference-hs.
    A training that was cut short goes on from its last epoch when the same command runs again, and ends in the same
    weights. OUT/training holds its curves.

    Example:  trivium train --data labels/train/dataset --validation labels/validation/dataset --out my-router
    """
    from services.cli.train.train import run_train

    target = own.calibration_target(target_llm_usage, target_recall, target_avg_params_b)
    run_train(
        own.TrainOptions(
            data=data,
            validation=validation,
            out=out,
            config=config,
            pair=pair,
            seed=seed,
            target=target or own.CalibrationTarget("llm_usage_rate", 0.09),
            device=device or "",
            threads=threads,
            with_embedding=with_embedding,
            allow_other_slm=allow_other_slm,
            overwrite=overwrite,
        )
    )


def import_router(
    source: own.PublishedSource,
    slm: own.ImportSlm,
    out: own.Out,
    file: own.PublishedName = None,
    with_embedding: own.ImportWithEmbedding = None,
    allow_other_slm: own.AllowOtherSlm = False,
    overwrite: own.Overwrite = False,
) -> None:
    """Makes a checkpoint of a router that the authors of R2R publish.

    The file is a pickle: it is read in a process without network, files and environment, as tensors and plain values
    alone. Scores are the published router's. Its threshold becomes the default one; budgets need `trivium calibrate`.

    Example:  trivium import-router nics-efc/R2R_router_collections --file Qwen3-0.6B+Qwen3-8B/default_router.pt --slm
    Qwen/Qwen3-0.6B --out my-router
    """
    from services.cli.train.import_router import run_import_router

    run_import_router(own.ImportOptions(source, file, slm, out, with_embedding, allow_other_slm, overwrite))


def calibrate(
    checkpoint: own.Checkpoint = None,
    validation: own.CalibrateValidation = None,
    target_llm_usage: own.TargetLlmUsage = None,
    target_recall: own.TargetRecall = None,
    target_avg_params_b: own.TargetAvgParams = None,
    pair: opt.PairName = "reference",
    decode_on: own.DecodeOn = None,
    num_queries: own.NumQueries = 100,
    threads: own.Threads = 0,
    rule: own.RuleName = None,
    source: own.PromptSource = "reference",
    data: own.PromptData = "",
    split: own.PromptSplit = "",
    limit: own.NumPrompts = 200,
    max_new_tokens: own.MaxAnswerLen = 2048,
    out: own.SweepOut = None,
) -> None:
    """Chooses the default threshold of a router and writes it into its checkpoint; or makes the sweep of a rule.

    Of a router: sweeps thresholds over labelled validation data, prints what each comes to, and picks the one that
    meets the target. The sweep goes into the checkpoint, so that requests can name a budget instead of a threshold;
    CHECKPOINT/training/sweep.png shows it.

    Of a rule, with --rule: the small model answers prompts by itself, without labels and without the large model, and
    each threshold's LLM usage is the share of its tokens whose score reaches it. The sweep goes into a file.

    Example:  trivium calibrate my-router --validation labels/validation/dataset --target-llm-usage 0.1

    Example:  trivium calibrate --rule entropy --source file --data prompts.jsonl --limit 500
    """
    target = own.calibration_target(target_llm_usage, target_recall, target_avg_params_b)
    if rule is not None:
        if checkpoint is not None:
            raise CliError(f"--rule: {rule} has no checkpoint, but {checkpoint} is given")
        if decode_on is not None or (target is not None and target.name != "llm_usage_rate"):
            raise CliError("--rule: goes with --target-llm-usage alone, and without --decode-on")
        from services.cli.train.calibrate_rule import run_calibrate_rule

        return run_calibrate_rule(
            own.CalibrateRuleOptions(
                rule, pair, source, data, split, limit, max_new_tokens, validation, target_llm_usage, out
            )
        )
    if checkpoint is None or validation is None:
        raise CliError("give a router's CHECKPOINT and --validation, or a rule with --rule")
    if target is None:
        raise CliError("give one of --target-llm-usage, --target-recall and --target-avg-params-b")
    if decode_on is not None:
        from services.cli.ask.client import check_answers

        check_answers(decode_on)
    from services.cli.train.calibrate import run_calibrate

    run_calibrate(own.CalibrateOptions(checkpoint, validation, target, pair, decode_on, num_queries, threads))


def add_commands(app: typer.Typer) -> None:
    """Adds this family's commands."""
    for command in (train, import_router, calibrate):
        app.command()(command)
