"""The judge of all decodings, held to laws that are written here from scratch, one forward pass a token."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from hashlib import blake2b

import pytest
import torch
from torch import Tensor

from evaluation.in_process import NEAR_TIE, DecodedToken, decode
from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.pair import LoadedPair, load_pair
from labeler_jobs.models.huggingface import render_prompt
from services.engines.base import GREEDY, SamplingParams
from services.engines.sampling import sample_token
from services.rules.chosen import ChosenRule
from services.rules.decider import Decider, Draft, Verdict
from services.rules.shipped import LosslessRule

LIMIT = 16
DRAWN = SamplingParams(temperature=0.9, top_k=40, top_p=0.9, seed=5)


Accepts = Callable[[Tensor, int, int, int], bool]
"""Of the SLM's logits, its draft, the LLM's token and the position."""


@pytest.fixture(scope="module")
def pair() -> LoadedPair:
    return load_pair()


@pytest.fixture(scope="module")
def prompts(pair: LoadedPair) -> list[list[int]]:
    return [render_prompt(pair.tokenizer, draw_sample(91_000_000 + index).query) for index in range(2)]


def probabilities(logits: Tensor) -> list[float]:
    """Of the hundred likeliest tokens, the likeliest first."""
    likeliest = sorted(logits.double().tolist(), reverse=True)[:100]
    weights = [math.exp(logit - likeliest[0]) for logit in likeliest]
    return [weight / sum(weights) for weight in weights]


def is_drawn(seed: int, position: int, rate: float) -> bool:
    digest = blake2b(struct.pack("<QQ", seed, position), digest_size=8).digest()
    return int.from_bytes(digest, "little") < rate * 2**64


LAWS: list[tuple[str, dict[str, float], Accepts]] = [
    ("entropy", {"threshold": 0.5}, lambda z, s, y, t: -sum(p * math.log(p) for p in probabilities(z) if p) < 0.5),
    ("margin", {"threshold": 0.4}, lambda z, s, y, t: 1 - (probabilities(z)[0] - probabilities(z)[1]) < 0.4),
    ("lossless", {}, lambda z, s, y, t: s == y),
    ("slm", {}, lambda z, s, y, t: True),
    ("llm", {}, lambda z, s, y, t: False),
    ("random", {"rate": 0.3, "seed": 7}, lambda z, s, y, t: not is_drawn(7, t, 0.3)),
]


@torch.inference_mode()
def logits_after(model: torch.nn.Module, tokens: list[int]) -> Tensor:
    return model(torch.tensor([tokens]), use_cache=False).logits[0, -1]  # type: ignore[no-any-return]


def chosen(logits: Tensor, sampling: SamplingParams, position: int) -> int:
    return sample_token(logits.numpy(), sampling, position) if sampling.temperature else int(logits.argmax())


def assert_same_but_for_ties(got: list[DecodedToken], want: list[int]) -> None:
    token_ids = [token.token_id for token in got]
    if token_ids != want:
        at = next(i for i, (mine, theirs) in enumerate(zip(token_ids, want, strict=False)) if mine != theirs)
        assert got[at].margin < NEAR_TIE, f"position {at}: {token_ids[at]}, not {want[at]}"


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize(("name", "parameters", "accept"), LAWS, ids=[law[0] for law in LAWS])
def test_decode_writes_what_the_law_of_the_rule_says(
    pair: LoadedPair,
    prompts: list[list[int]],
    name: str,
    parameters: dict[str, float],
    accept: Accepts,
    sampling: SamplingParams,
) -> None:
    for prompt in prompts:
        tokens = list(prompt)
        while len(tokens) < len(prompt) + LIMIT and (len(tokens) == len(prompt) or tokens[-1] != eos(pair)):
            position, slm_logits = len(tokens), logits_after(pair.slm, tokens)
            s = chosen(slm_logits, sampling, position)
            y = chosen(logits_after(pair.llm, tokens), sampling, position)
            tokens.append(s if accept(slm_logits, s, y, position) else y)
        decoded = decode(pair, prompt, pair.rule(name, **parameters), max_new_tokens=LIMIT, sampling=sampling)
        assert_same_but_for_ties(decoded, tokens[len(prompt) :])


def test_lossless_writes_the_llms_own_greedy_output(pair: LoadedPair, prompts: list[list[int]]) -> None:
    num_confirmed = 0
    for prompt in prompts:
        output = pair.llm.generate(  # type: ignore[operator]
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=3 * LIMIT, do_sample=False,
        )  # fmt: skip
        decoded = decode(pair, prompt, pair.rule("lossless"), max_new_tokens=3 * LIMIT)
        assert_same_but_for_ties(decoded, output[0, len(prompt) :].tolist())
        assert all(token.from_llm is not token.confirmed for token in decoded)
        num_confirmed += sum(token.confirmed for token in decoded)
    assert num_confirmed > 0


class EveryThird:
    """Asks the LLM about the third token after each of its own."""

    in_order = True

    def __init__(self) -> None:
        self._num_since = 0

    def verdict(self, draft: Draft) -> Verdict:
        return Verdict.ASK if self._num_since == 2 else Verdict.ACCEPT

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        self._num_since = 0 if by_llm else self._num_since + 1


class EveryThirdRule(LosslessRule):
    def decider(self, parameters: Mapping[str, float]) -> Decider:
        return EveryThird()


def test_decode_tells_a_rule_that_keeps_state_of_every_token(pair: LoadedPair, prompts: list[list[int]]) -> None:
    decoded = decode(pair, prompts[0], ChosenRule(EveryThirdRule(), {}), max_new_tokens=12)
    assert [token.from_llm for token in decoded] == [False, False, True] * 4


def eos(pair: LoadedPair) -> int:
    return int(pair.tokenizer.eos_token_id)
