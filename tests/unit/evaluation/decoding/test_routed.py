"""Decoding many questions through the routing core writes what the reference loop writes, on the shipped pair."""

import itertools

import pytest

from evaluation.decoding.alone import decode_alone
from evaluation.decoding.response import RoutedResponse
from evaluation.decoding.routed import decode_routed
from evaluation.decoding.router_scorer import RouterScorer
from evaluation.in_process import NEAR_TIE, SLM_ONLY, DecodedToken, decode
from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair, load_pair
from labeler_jobs.models.huggingface import render_prompt
from services.rules.shipped import SHIPPED

SLM, LLM = WEIGHTS_DIR / "slm", WEIGHTS_DIR / "llm"
LIMIT = 60


@pytest.fixture(scope="module")
def pair() -> LoadedPair:
    return load_pair()


@pytest.fixture(scope="module")
def prompts(pair: LoadedPair) -> list[list[int]]:
    return [render_prompt(pair.tokenizer, draw_sample(90_000_000 + index).query) for index in range(9)]


def assert_equal_but_for_ties(response: RoutedResponse, reference: list[DecodedToken]) -> None:
    got = list(zip(response.token_ids, response.from_llm, strict=True))
    want = [(token.token_id, token.from_llm) for token in reference]
    if got == want:
        return
    at = next(i for i, (mine, theirs) in enumerate(itertools.zip_longest(got, want)) if mine != theirs)
    assert at < len(reference)
    assert reference[at].margin < NEAR_TIE


@pytest.mark.parametrize("batch_size", [4, 100])
def test_decode_routed_equals_the_reference_decoding(
    pair: LoadedPair, prompts: list[list[int]], batch_size: int
) -> None:
    responses = decode_by("router", pair, prompts, batch_size=batch_size)
    assert sum(sum(response.from_llm) for response in responses) > 0
    for prompt, response in zip(prompts, responses, strict=True):
        assert len(response.scores) == len(response.token_ids)
        assert_equal_but_for_ties(response, decode(pair, prompt, pair.rule(), max_new_tokens=LIMIT))


@pytest.mark.parametrize("name", [rule.name for rule in SHIPPED if rule.name != "router"])
def test_decode_routed_by_any_rule_equals_its_reference_decoding(
    pair: LoadedPair, prompts: list[list[int]], name: str
) -> None:
    for prompt, response in zip(prompts[:3], decode_by(name, pair, prompts[:3]), strict=True):
        assert_equal_but_for_ties(response, decode(pair, prompt, pair.rule(name), max_new_tokens=LIMIT))


def decode_by(name: str, pair: LoadedPair, prompts: list[list[int]], batch_size: int = 100) -> list[RoutedResponse]:
    rules, router = [pair.rule(name)] * len(prompts), RouterScorer(pair.router, pair.slm_embedding)
    return decode_routed(SLM, LLM, rules, prompts, router=router, max_new_tokens=LIMIT, batch_size=batch_size)


def test_decode_alone_equals_the_reference_decoding_of_one_model(pair: LoadedPair, prompts: list[list[int]]) -> None:
    for model, from_llm, threshold in ((SLM, False, SLM_ONLY), (LLM, True, 0.0)):
        responses = decode_alone(model, prompts[:4], max_new_tokens=LIMIT, from_llm=from_llm)
        rule = pair.rule(threshold=threshold)
        for prompt, response in zip(prompts, responses, strict=False):
            assert_equal_but_for_ties(response, decode(pair, prompt, rule, max_new_tokens=LIMIT))


def test_decode_routed_rows_that_end_early_leave_the_others_as_they_are(
    pair: LoadedPair, prompts: list[list[int]]
) -> None:
    rules = [pair.rule("random", rate=0.2, seed=number) for number in range(len(prompts))]
    together = decode_routed(SLM, LLM, rules, prompts, max_new_tokens=220)
    assert len({len(response.token_ids) for response in together}) > 1
    for number in (0, len(prompts) - 1):
        alone = decode_routed(SLM, LLM, rules[: number + 1], prompts[: number + 1], max_new_tokens=220, batch_size=1)[
            number
        ]
        assert alone.token_ids == together[number].token_ids
        assert alone.from_llm == together[number].from_llm
