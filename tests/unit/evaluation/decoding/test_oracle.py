"""The oracle's batches decide as path-following one by one does, on the shipped pair."""

from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

from evaluation.decoding.alone import decode_alone
from evaluation.decoding.oracle import decode_oracle
from evaluation.decoding.path_following import FollowedPath, Fork
from evaluation.decoding.response import RoutedResponse
from evaluation.reference.corpus.samples import Sample, draw_sample
from evaluation.reference.corpus.verifier import SuiteVerifier, is_correct
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair, load_pair
from labeler_jobs.models.huggingface import render_prompt
from labeler_jobs.text.sentence import sentence_end, sentence_start
from labeler_jobs.verifiers.case import build_case
from labeler_jobs.verifiers.verifier import Label, Verdict, VerificationCase
from tests.unit.evaluation.decoding.one_by_one import NextToken, continue_greedily, follow_path

LIMIT = 24
"""Tokens of the responses that are decoded one by one: a few sentences, with forks of both kinds."""


class AnswersAll:
    def __init__(self, divergent: bool) -> None:
        self.divergent = divergent

    def judge(self, cases: Sequence[VerificationCase]) -> list[Verdict]:
        return [Verdict(self.divergent) for _ in cases]


@pytest.fixture(scope="module")
def pair() -> LoadedPair:
    return load_pair()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [draw_sample(90_000_000 + number) for number in (8, 3, 1)]


@pytest.fixture(scope="module")
def prompts(pair: LoadedPair, samples: list[Sample]) -> list[list[int]]:
    return [render_prompt(pair.tokenizer, sample.query) for sample in samples]


def decode(
    pair: LoadedPair,
    prompts: Sequence[Sequence[int]],
    verifier: SuiteVerifier | AnswersAll,
    max_new_tokens: int = 220,
    batch_size: int = 128,
) -> list[RoutedResponse]:
    return decode_oracle(
        pair.slm, pair.llm, pair.tokenizer, verifier, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size
    )


def next_token(model: PreTrainedModel) -> NextToken:
    @torch.inference_mode()
    def write(sequence: Sequence[int]) -> int:
        return int(model(torch.tensor([list(sequence)]), use_cache=False).logits[0, -1].argmax())

    return write


def follow_one_by_one(pair: LoadedPair, prompt: Sequence[int], max_new_tokens: int) -> FollowedPath:
    """Algorithm 1 without batches, caches or plans; the LLM always writes up to the end of the next sentence."""

    def text(sequence: Sequence[int]) -> str:
        return str(pair.tokenizer.decode(list(sequence[len(prompt) :])))

    def differs(fork: Fork, slm_path: Sequence[int], llm_path: Sequence[int]) -> bool:
        texts = [text(sequence) for sequence in (fork.prefix, (*fork.prefix, *llm_path), (*fork.prefix, *slm_path))]
        [verdict] = SuiteVerifier().judge([build_case(*texts)])
        return verdict.divergent

    llm, eos = next_token(pair.llm), int(pair.tokenizer.eos_token_id)
    fork_at = 0

    def has_ended(sequence: Sequence[int]) -> bool:
        whole = text(sequence)
        end = sentence_end(whole, sentence_start(whole, fork_at))
        return end is not None and sentence_end(whole, end) is not None

    def llm_continue(sequence: Sequence[int]) -> Sequence[int]:
        nonlocal fork_at
        fork_at = len(text(sequence[:-1]))
        return continue_greedily(llm, eos_token_id=eos, max_new_tokens=128, has_ended=has_ended)(sequence)

    return follow_path(
        prompt, next_token(pair.slm), llm, llm_continue, differs, eos_token_id=eos, max_new_tokens=max_new_tokens
    )


def test_decode_oracle_equals_path_following_one_by_one(pair: LoadedPair, prompts: list[list[int]]) -> None:
    batched = decode(pair, prompts[:2], SuiteVerifier(), max_new_tokens=LIMIT)
    labels: list[Label] = []
    for prompt, response in zip(prompts[:2], batched, strict=True):
        path = follow_one_by_one(pair, prompt, LIMIT)
        assert response.token_ids == list(path.token_ids)
        assert response.from_llm == [label == Label.DIVERGENT for label in path.labels]
        assert response.scores == [float(written) for written in response.from_llm]
        labels.extend(path.labels)
    assert {Label.NEUTRAL, Label.DIVERGENT} < set(labels)


def test_decode_oracle_answers_as_the_llm_does_with_few_of_its_tokens(
    pair: LoadedPair, prompts: list[list[int]], samples: list[Sample]
) -> None:
    responses = decode_oracle(
        pair.slm, pair.llm, pair.tokenizer, SuiteVerifier(), prompts,
        max_new_tokens=220, batch_size=2,
    )  # fmt: skip
    texts = [str(pair.tokenizer.decode(response.token_ids)) for response in responses]
    assert all(is_correct(text, sample.answer) for text, sample in zip(texts, samples, strict=True))
    written = [from_llm for response in responses for from_llm in response.from_llm]
    assert 0 < sum(written) < 0.1 * len(written)
    alone = decode_alone(WEIGHTS_DIR / "llm", prompts, max_new_tokens=220)
    assert any(mine.token_ids != theirs.token_ids for mine, theirs in zip(responses, alone, strict=True))


@pytest.mark.parametrize(("divergent", "model"), [(True, "llm"), (False, "slm")])
def test_decode_oracle_verifier_of_one_mind_gives_one_models_response(
    pair: LoadedPair, prompts: list[list[int]], divergent: bool, model: str
) -> None:
    alone = decode_alone(WEIGHTS_DIR / model, prompts, max_new_tokens=40)
    responses = decode(pair, prompts, AnswersAll(divergent), max_new_tokens=40)
    assert [response.token_ids for response in responses] == [response.token_ids for response in alone]


def test_decode_oracle_batch_size_changes_nothing(pair: LoadedPair, prompts: list[list[int]]) -> None:
    together = decode(pair, prompts, SuiteVerifier(), max_new_tokens=60)
    assert decode(pair, prompts, SuiteVerifier(), max_new_tokens=60, batch_size=1) == together
