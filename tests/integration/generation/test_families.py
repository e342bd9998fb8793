"""Pairs of several families of models, with windows, write what the plain loop writes."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import pytest
import torch
from transformers import AutoModelForCausalLM

from evaluation.exactness import compare, reference_decodings
from evaluation.in_process import SLM_ONLY, decode
from evaluation.reference.pair import LoadedPair, load_pair
from labeler_jobs.models.identity import identify_model
from router_service.checkpoint import RouterCheckpoint, save_checkpoint
from router_service.description import RouterDescription
from router_service.model import Router, RouterConfig
from services.common.pair import ModelSection
from tests.contract.families import family_config
from tests.contract.tiny_models import write_model
from tests.integration.harness.completions import tell
from tests.integration.harness.pair import Replica, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NUM_STREAMS = 16
MAX_NEW_TOKENS = 40
ENGINE = ("--prefill-chunk-len", "24", "--kv-cache-tokens", "768")
"""Prompts come in chunks, and there is no room for all of them at a time."""
NOISE = 0.02
"""How far the large model's weights are from the small one's: they agree on most tokens, and not on all."""


def write_pair(folder: Path, family: str) -> LoadedPair:
    write_model(folder / "slm", family_config(family), seed=1)
    write_model(folder / "llm", family_config(family), seed=1)
    llm = AutoModelForCausalLM.from_pretrained(folder / "llm")
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.add_(NOISE * torch.randn_like(parameter))
    llm.save_pretrained(folder / "llm")
    slm, llm_identity = (identify_model(ModelSection(model=str(folder / role)), role)[0] for role in ("slm", "llm"))
    router = Router(RouterConfig(slm.hidden_size, projection_size=8, hidden_size=16, num_blocks=1)).eval()
    description = RouterDescription(router.config, slm, llm_identity, threshold=0.5)
    save_checkpoint(RouterCheckpoint(router, description), folder / "router")
    return load_pair(folder)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3", "mistral"])
async def test_pair_of_a_family_writes_the_reference_decoding(family: str, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, family)
    generator = random.Random(family)
    prompts = [tuple(generator.choices(range(1, 320), k=generator.randint(3, 60))) for _ in range(NUM_STREAMS)]
    scores = [token.score for token in decode(pair, prompts[0], pair.rule(threshold=SLM_ONLY), max_new_tokens=30)]
    rule = pair.rule(threshold=median(scores))
    greedy = reference_decodings(pair, prompts, [rule], max_new_tokens=MAX_NEW_TOKENS)
    drawn = reference_decodings(pair, prompts[:4], [rule], sampled=True, max_new_tokens=MAX_NEW_TOKENS)
    tokens = [token for reference in (*greedy, *drawn) for token in reference.completion]
    assert {token.from_llm for token in tokens} == {False, True}

    async with AsyncExitStack() as stack:
        slm, llm = str(tmp_path / "slm"), str(tmp_path / "llm")
        replicas = {
            "slm": Replica("services.slm", "--model", slm, *ENGINE, directory=tmp_path / "slm-1"),
            "llm": Replica("services.llm", "--model", llm, *ENGINE, directory=tmp_path / "llm-1"),
            "router": Replica(
                "router_service", "--checkpoint", str(tmp_path / "router"), "--slm-model", slm,
                directory=tmp_path / "router-1",
            ),
        }  # fmt: skip
        for replica in replicas.values():
            await stack.enter_async_context(running(replica))
        addresses = [flag for role, replica in replicas.items() for flag in (f"--{role}", replica.address)]
        front = Replica("services.orchestrator", "--tokenizer", slm, *addresses, directory=tmp_path / "orchestrator")
        await stack.enter_async_context(running(front))
        outcomes = [
            *await compare(front.address, [*greedy, *drawn], depths=(0, 16), concurrencies=(NUM_STREAMS,)),
            *await compare(front.address, greedy[:2], depths=(0, 16), concurrencies=(1,)),
        ]

    tell("tokens compared", sum(outcome.num_tokens for outcome in outcomes))
    tell("near ties", sum(outcome.num_excused for outcome in outcomes))
    assert not [outcome for outcome in outcomes if outcome.num_different]
    assert sum(outcome.num_excused for outcome in outcomes) <= 1
