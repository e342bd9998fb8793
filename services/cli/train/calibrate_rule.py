"""What `trivium calibrate --rule` does: has the small model write answers, scores its drafts and writes the sweep.

Owns what is shown; the work is `labeler_jobs.rule_sweep`'s.
"""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from evaluation.reference.corpus.queries import REFERENCE_SOURCE, read_reference
from labeler_jobs.models.huggingface import render_prompt
from labeler_jobs.queries.loading import load_queries
from labeler_jobs.rule_sweep import make_sweep, score_drafts, score_labelled, slm_options, swept_model
from services.cli.console import note, out
from services.cli.errors import CliError
from services.cli.pairs import find_pair
from services.cli.train.options import CalibrateRuleOptions
from services.common.errors import TriviumError
from services.common.pair import load_pair
from services.common.progress import progress_bar
from services.common.text.tokenizer import load_tokenizer
from services.engines.factory import EngineUnavailable, create_slm_engine
from services.rules.chosen import THRESHOLD
from services.rules.registry import Rules
from services.rules.rule import Evidence, Rule, RuleError
from services.rules.sweep import RuleSweep, write_sweep


def run_calibrate_rule(options: CalibrateRuleOptions) -> None:
    """Makes and writes the sweep of a rule, and prints it.

    Raises:
        CliError: Something can't be used; the message names it.
    """
    rule = _rule(options.rule)
    path = options.out or Path("rules") / f"{rule.name}.json"
    try:
        # Before anything that takes a while.
        path.parent.mkdir(parents=True, exist_ok=True)
        pair = load_pair(find_pair(options.pair))
        slm = swept_model(pair)
        labelled = score_labelled(options.validation, rule, slm) if options.validation else None
        readers = {REFERENCE_SOURCE: read_reference}
        queries = load_queries(options.source, options.data, options.split, options.limit, readers=readers)
        tokenizer = load_tokenizer(pair.slm.model, pair.slm.revision)
        prompts = [render_prompt(tokenizer, query.query) for query in queries]
        setup = slm_options(pair.slm)
        engine = create_slm_engine(pair.slm.engine.name or "transformers", setup)
        with progress_bar() as bar:
            task = bar.add_task("writing", total=len(prompts))
            scores = score_drafts(
                engine, prompts, rule,
                max_new_tokens=options.max_new_tokens, max_open=setup.max_batch_size,
                on_answer=lambda: bar.advance(task),
            )  # fmt: skip
        sweep = make_sweep(rule, slm, scores, labelled)
        write_sweep(sweep, path)
    # Everything that can be wrong with files, data or models is a ValueError of its own kind.
    except (ValueError, OSError, TriviumError, EngineUnavailable) as error:
        raise CliError(str(error)) from error
    out.print(sweep_table(sweep))
    note(f"{sweep.num_tokens:,} drafts of {len(prompts):,} answers; written to {path}")
    if options.target_llm_usage is not None:
        threshold = sweep.threshold_for(options.target_llm_usage)
        note(f"threshold for an LLM usage of {100 * options.target_llm_usage:g}%: {threshold:.6g}")


def _rule(name: str) -> Rule:
    if name == "random":
        raise CliError("--rule: random needs no sweep: its rate is the LLM usage")
    rules = Rules.installed()
    try:
        rule = rules.named(name)
    except RuleError as error:
        raise CliError(f"--{error}") from error
    if not _has_sweep(rule):
        known = ", ".join(other.name for other in rules if _has_sweep(other))
        raise CliError(f"--rule: {name} has no score of the small model to sweep; {known} have")
    return rule


def _has_sweep(rule: Rule) -> bool:
    return rule.evidence is Evidence.SLM and THRESHOLD in rule.parameters


def sweep_table(sweep: RuleSweep) -> Table:
    """The sweep of a rule, with recall and precision where labelled tokens gave them."""
    has_labels = sweep.rows[0].recall is not None
    table = Table("threshold", "LLM usage %", *(("recall %", "precision %") if has_labels else ()))
    for row in sweep.rows:
        shares = (row.llm_usage_rate, row.recall, row.precision)
        table.add_row(f"{row.threshold:.6g}", *(f"{100 * share:.2f}" for share in shares if share is not None))
    return table
