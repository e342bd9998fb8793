"""A shadow and a sample before a running pair: what they say is what a computation over the same answers says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from evaluation.exactness import suite_prompts
from evaluation.in_process import NEAR_TIE
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair
from router_service.checkpoint import load_checkpoint
from router_service.features import select_top_logits
from router_service.model import divergence_probability
from router_service.training.dataset import labelled_pair, load_routing_data
from services.client import Options, tokens_request
from services.common.draft_sample import DraftSample, read_sample
from tests.integration.harness.changed_router import changed_router
from tests.integration.harness.completions import client, generate, tell
from tests.integration.harness.pair import Replica, RunningPair, running
from tests.ports import free_port
from tests.scraping import scrape

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NUM_PROMPTS, MAX_NEW_TOKENS = 40, 120
SHADOW_THRESHOLD, SHARE = 0.7, 0.1


@dataclass(frozen=True)
class Answer:
    """One answer, with what both models and both routers say at each of its positions, teacher-forced."""

    tokens: list[int]
    drafts: list[int]
    llm_tokens: list[int]
    scores: list[float]
    shadow_scores: list[float]
    gaps: list[float]


@torch.inference_mode()
def read(pair: LoadedPair, shadow: Path, prompt: Sequence[int], tokens: Sequence[int]) -> Answer:
    positions = slice(len(prompt) - 1, len(prompt) + len(tokens) - 1)
    slm_logits, hidden = _logits(pair.slm, [*prompt, *tokens])
    llm_logits, _ = _logits(pair.llm, [*prompt, *tokens])
    slm_logits, hidden, llm_logits = (each[positions] for each in (slm_logits, hidden, llm_logits))
    drafts = slm_logits.argmax(-1)
    top_logits = select_top_logits(slm_logits, pair.router.config.num_top_logits)
    embedding = pair.slm_embedding[drafts]
    scores, shadow_scores = (
        divergence_probability(router(hidden, top_logits, embedding)).tolist()
        for router in (pair.router, load_checkpoint(shadow).router)
    )
    gaps = torch.stack([logits.topk(2).values.diff().abs()[:, 0] for logits in (slm_logits, llm_logits)]).amin(0)
    return Answer(list(tokens), drafts.tolist(), llm_logits.argmax(-1).tolist(), scores, shadow_scores, gaps.tolist())


def _logits(model: PreTrainedModel, tokens: list[int]) -> tuple[Tensor, Tensor]:
    output = model(torch.tensor([tokens]), output_hidden_states=True)
    return output.logits[0], output.hidden_states[-1][0]


def counted(answers: Sequence[Answer], threshold: float) -> Counter[str]:
    """The shadow's decisions as its metrics name them."""
    counts: Counter[str] = Counter()
    for answer in answers:
        for index, token in enumerate(answer.tokens):
            draft = answer.drafts[index]
            asked = answer.scores[index] >= threshold
            outcome = ("confirmed" if token == draft else "replaced") if asked else "stood"
            decision = "asked" if answer.shadow_scores[index] >= SHADOW_THRESHOLD else "accepted"
            counts[f"trivium_orchestrator_shadow_{decision}_tokens_total{{outcome={outcome}}}"] += 1
    return counts


@asynccontextmanager
async def looked_at(pair: RunningPair, directory: Path, shadow: Path, metrics_port: int) -> AsyncIterator[Replica]:
    """An orchestrator with a shadow and a sample, before a router service that has a second router."""
    router = Replica(
        "router_service", "--checkpoint", str(WEIGHTS_DIR / "router"), "--slm-model", str(WEIGHTS_DIR / "slm"),
        "--shadow-checkpoint", str(shadow), directory=directory / "router",
    )  # fmt: skip
    async with (
        running(router),
        pair.running_orchestrator(
            "learning", "--metrics-port", str(metrics_port),
            "--shadow-rule", f"router:threshold={SHADOW_THRESHOLD}",
            "--sample-dir", str(directory / "kept"), "--sample-share", str(SHARE),
            router=router.address,
        ) as front,
    ):  # fmt: skip
        yield front


async def test_shadow_and_sample_say_what_the_same_answers_say_offline(
    pair: RunningPair, reference_pair: LoadedPair, tmp_path: Path
) -> None:
    shadow = changed_router(tmp_path / "second", 1)
    prompts = suite_prompts(reference_pair, NUM_PROMPTS)
    port = free_port()
    async with looked_at(pair, tmp_path, shadow, port) as front:
        async with client(front) as stub:
            asked = [tokens_request(prompt, Options(max_new_tokens=MAX_NEW_TOKENS)) for prompt in prompts]
            completions = await asyncio.gather(*(generate(stub, request) for request in asked))
        page = await asyncio.to_thread(scrape, port)
        front.process.signal(SIGTERM)
        assert await front.process.until_exited() == 0
    answers = [
        read(reference_pair, shadow, prompt, completion.token_ids)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    threshold = reference_pair.description.threshold
    expected = counted(answers, threshold)
    found = {name: int(value) for name, value in page.values.items() if "_shadow_" in name}
    num_close = sum(
        min(abs(score - threshold), abs(shadow_score - SHADOW_THRESHOLD), gap) < NEAR_TIE
        for answer in answers
        for score, shadow_score, gap in zip(answer.scores, answer.shadow_scores, answer.gaps, strict=True)
    )
    num_other = sum(abs(found.get(name, 0) - expected[name]) for name in {*found, *expected})
    tell("shadow's decisions, those that differ, near ties", (dict(expected), num_other, num_close))
    assert found["trivium_orchestrator_shadow_unscored_tokens_total"] == 0
    # One that falls on the other side leaves one count and enters another.
    assert num_other <= 2 * num_close
    assert sum(found.values()) == sum(len(answer.tokens) for answer in answers)
    assert len(expected) >= 5

    samples = [read_sample(path) for path in sorted((tmp_path / "kept").iterdir())]
    kept = page.values["trivium_orchestrator_sample_drafts_total{outcome=dropped}"], sum(map(len, samples))
    tell("drafts of the sample: dropped, kept", kept)
    assert kept[0] == 0
    _check_sample(samples, answers)
    await asyncio.to_thread(_check_dataset, tmp_path, samples)


def _check_sample(samples: Sequence[DraftSample], answers: Sequence[Answer]) -> None:
    by_answer: dict[int, dict[int, tuple[int, int]]] = {}
    for sample in samples:
        columns = (sample.columns[name].tolist() for name in ("query_id", "position", "slm_token_id", "llm_token_id"))
        for query_id, position, draft, token in zip(*columns, strict=True):
            by_answer.setdefault(query_id, {})[position] = (draft, token)
    said = [list(zip(answer.drafts, answer.llm_tokens, strict=True)) for answer in answers]
    num_kept = sum(map(len, by_answer.values()))
    # What follows the last question of an answer is never read.
    assert 0.3 * SHARE < num_kept / sum(map(len, said)) < 1.5 * SHARE
    for drafts in by_answer.values():
        # Which answer it was isn't kept: the one that agrees most, and then but for near ties.
        best = max(
            sum(position < len(tokens) and tokens[position] == pair for position, pair in drafts.items())
            for tokens in said
        )
        assert best >= len(drafts) - 1


def _check_dataset(directory: Path, samples: Sequence[DraftSample]) -> None:
    from services.cli.label.collect import run_collect
    from services.cli.label.options import CollectOptions

    out, validation = directory / "live", directory / "live-validation"
    run_collect(CollectOptions((directory / "kept",), out, validation, 0.3, 1))
    data = [load_routing_data(folder, "divergent") for folder in (out, validation)]
    assert sum(map(len, data)) == sum(map(len, samples))
    differs = [sample.columns["slm_token_id"] != sample.columns["llm_token_id"] for sample in samples]
    assert sum(int(each.targets.sum()) for each in data) == int(np.concatenate(differs).sum())
    assert labelled_pair(out).slm.is_same_model(load_checkpoint(WEIGHTS_DIR / "router").description.slm)
