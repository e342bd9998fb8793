"""Measure the pair on held-out queries: `python -m evaluation.reference.evaluate --queries 1000 --json OUT`.

SLM alone, LLM alone and routed decoding answer the same queries; each figure carries a 95% bootstrap interval over
queries. Average activated parameters are SLM + router + LLM x usage for routed decoding, and a model's own size when
it is alone.

Source: arXiv:2505.21600 §5.1 (metrics).
"""

import argparse
import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from evaluation.decoding.alone import decode_alone
from evaluation.decoding.response import RoutedResponse
from evaluation.decoding.routed import decode_routed
from evaluation.decoding.router_scorer import RouterScorer
from evaluation.metrics import Estimate, bootstrap_ratio
from evaluation.reference.corpus.samples import DOMAINS, MAX_NEW_TOKENS, Sample, unseen_samples
from evaluation.reference.corpus.verifier import is_correct
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair, load_pair
from labeler_jobs.models.huggingface import decode_text, render_prompt
from router_service.checkpoint import count_stored_parameters
from router_service.training.calibrate import TIE_MARGIN

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MethodReport:
    """What one way of decoding reaches.

    Attributes:
        method: "slm", "llm" or "routed".
        threshold: The routing threshold; None when one model is alone.
        accuracy: Share of correct answers.
        accuracy_by_domain: The same for each domain.
        llm_usage_rate: LLM-emitted / all emitted tokens.
        avg_activated_params_b: In billions.
        mean_response_len: Tokens of a response, EOS included.
        tokens_near_threshold: Emitted tokens whose probability is within `TIE_MARGIN` of the threshold.
    """

    method: str
    threshold: float | None
    accuracy: Estimate
    accuracy_by_domain: dict[str, Estimate]
    llm_usage_rate: Estimate
    avg_activated_params_b: Estimate
    mean_response_len: float
    tokens_near_threshold: int


def evaluate_pair(weights: Path, samples: Sequence[Sample], thresholds: Sequence[float] = ()) -> list[MethodReport]:
    """Measures the SLM alone, the LLM alone, and routed decoding at each threshold.

    Args:
        weights: Folder of the pair: slm, llm and router.
        samples: Queries with answers.
        thresholds: Routing thresholds; empty takes the router's own.

    Returns:
        One report per method, in that order.
    """
    pair = load_pair(weights)
    prompts = [render_prompt(pair.tokenizer, sample.query) for sample in samples]
    limit = MAX_NEW_TOKENS
    logger.info("slm and llm alone, %d queries", len(samples))
    slm = decode_alone(weights / "slm", prompts, max_new_tokens=limit)
    llm = decode_alone(weights / "llm", prompts, max_new_tokens=limit, from_llm=True)
    reports = [_report(pair, "slm", None, samples, slm), _report(pair, "llm", None, samples, llm)]
    router = RouterScorer(pair.router, pair.slm_embedding)
    for threshold in thresholds or [pair.description.threshold]:
        logger.info("routed, threshold %g", threshold)
        rules = [pair.rule(threshold=threshold)] * len(prompts)
        routed = decode_routed(weights / "slm", weights / "llm", rules, prompts, router=router, max_new_tokens=limit)
        reports.append(_report(pair, "routed", threshold, samples, routed))
    return reports


def _report(
    pair: LoadedPair,
    method: str,
    threshold: float | None,
    samples: Sequence[Sample],
    responses: Sequence[RoutedResponse],
) -> MethodReport:
    correct = [
        is_correct(decode_text(pair.tokenizer, response.token_ids), sample.answer)
        for sample, response in zip(samples, responses, strict=True)
    ]
    lengths = [len(response.token_ids) for response in responses]
    usage = bootstrap_ratio([sum(response.from_llm) for response in responses], lengths)
    by_domain: dict[str, Estimate] = {}
    for domain in DOMAINS:
        chosen = [right for sample, right in zip(samples, correct, strict=True) if sample.domain == domain]
        if chosen:
            by_domain[domain] = bootstrap_ratio(chosen, [1] * len(chosen))
    scores = [score for response in responses for score in response.scores]
    near = 0 if threshold is None else sum(abs(score - threshold) < TIE_MARGIN for score in scores)
    return MethodReport(
        method=method,
        threshold=threshold,
        accuracy=bootstrap_ratio(correct, [1] * len(correct)),
        accuracy_by_domain=by_domain,
        llm_usage_rate=usage,
        avg_activated_params_b=_activated(pair, method, usage),
        mean_response_len=sum(lengths) / len(lengths),
        tokens_near_threshold=near,
    )


def _activated(pair: LoadedPair, method: str, usage: Estimate) -> Estimate:
    sizes = pair.sizes
    if method == "routed":
        return Estimate(*(sizes.avg_activated_params_b(rate) for rate in (usage.value, usage.low, usage.high)))
    alone = (sizes.slm if method == "slm" else sizes.llm) / 1e9
    return Estimate(alone, alone, alone)


def render_table(reports: Sequence[MethodReport], llm_params_b: float) -> Table:
    """Lays reports out as a table, one row per method.

    Args:
        reports: What to show.
        llm_params_b: Size of the LLM, in billions, that average parameters are related to.
    """
    table = Table("method", "threshold", "accuracy %", *DOMAINS, "LLM usage %", "avg params (M)", "of the LLM %")
    for report in reports:
        table.add_row(
            report.method,
            "-" if report.threshold is None else f"{report.threshold:.4f}",
            _percent(report.accuracy),
            *(_percent(report.accuracy_by_domain[domain]) for domain in report.accuracy_by_domain),
            _percent(report.llm_usage_rate),
            f"{report.avg_activated_params_b.value * 1e3:.3f}",
            f"{100 * report.avg_activated_params_b.value / llm_params_b:.1f}",
        )
    return table


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def main(argv: list[str] | None = None) -> None:
    """Evaluates from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DIR, help="folder of the pair (default: the shipped)")
    parser.add_argument("--queries", type=int, default=1000, help="held-out queries (default: %(default)s)")
    parser.add_argument("--split", choices=("held_out", "validation"), default="held_out", help="which queries")
    parser.add_argument("--threshold", type=float, action="append", help="may be repeated; default: the router's own")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    if args.threads:
        torch.set_num_threads(args.threads)
    samples = unseen_samples(args.split, args.queries)
    reports = evaluate_pair(args.weights, samples, args.threshold or ())
    Console(width=160).print(render_table(reports, count_stored_parameters(args.weights / "llm") / 1e9))
    if args.json:
        args.json.write_text(json.dumps([dataclasses.asdict(report) for report in reports], indent=1) + "\n")


if __name__ == "__main__":
    main()
