"""The weights that ship: they load, fit together, stay small and do what their card says, on a few queries."""

import pytest

from evaluation.decoding.alone import decode_alone
from evaluation.decoding.response import RoutedResponse
from evaluation.decoding.routed import decode_routed
from evaluation.decoding.router_scorer import RouterScorer
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, unseen_samples
from evaluation.reference.corpus.verifier import is_correct
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair, load_pair
from labeler_jobs.models.huggingface import decode_text, render_prompt
from labeler_jobs.rule_sweep import swept_model
from services.cli.pairs import find_pair
from services.common.pair import load_pair as load_pair_file
from services.rules.rule import Rule
from services.rules.shipped import EntropyRule, MarginRule
from services.rules.sweep import read_sweep
from tests.unit.router_service.made import identify_model

MAX_BYTES = 10_000_000
NUM_QUERIES = 24


@pytest.fixture(scope="module")
def pair() -> LoadedPair:
    return load_pair()


def test_shipped_weights_stay_within_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS_DIR.rglob("*.safetensors")) <= MAX_BYTES


def test_shipped_router_names_the_shipped_models(pair: LoadedPair) -> None:
    description = pair.description
    assert description.llm is not None
    assert description.slm == identify_model(WEIGHTS_DIR / "slm", description.slm.model_id)
    assert description.llm == identify_model(WEIGHTS_DIR / "llm", description.llm.model_id)
    assert description.slm.tokenizer_sha256 == description.llm.tokenizer_sha256


def test_shipped_default_threshold_stays_within_the_parameter_budget(pair: LoadedPair) -> None:
    usage = description_usage(pair)
    assert pair.sizes.avg_activated_params_b(usage) <= 0.17 * pair.sizes.llm / 1e9


def test_shipped_llm_can_be_split_over_two_devices(pair: LoadedPair) -> None:
    assert pair.llm.config.num_attention_heads % 2 == pair.llm.config.num_key_value_heads % 2 == 0


def test_shipped_routing_answers_what_the_slm_alone_cannot(pair: LoadedPair) -> None:
    samples = unseen_samples("held_out", NUM_QUERIES)
    prompts = [render_prompt(pair.tokenizer, sample.query) for sample in samples]

    def num_right(responses: list[RoutedResponse]) -> int:
        return sum(
            is_correct(decode_text(pair.tokenizer, response.token_ids), sample.answer)
            for sample, response in zip(samples, responses, strict=True)
        )

    routed = decode_routed(
        WEIGHTS_DIR / "slm",
        WEIGHTS_DIR / "llm",
        [pair.rule()] * len(prompts),
        prompts,
        router=RouterScorer(pair.router, pair.slm_embedding),
        max_new_tokens=MAX_NEW_TOKENS,
    )
    assert num_right(routed) >= 0.85 * NUM_QUERIES
    assert num_right(decode_alone(WEIGHTS_DIR / "slm", prompts, max_new_tokens=MAX_NEW_TOKENS)) <= 0.7 * NUM_QUERIES


def description_usage(pair: LoadedPair) -> float:
    return pair.description.metrics["validation_llm_usage_rate"]


@pytest.mark.parametrize("rule", [EntropyRule(), MarginRule()], ids=lambda rule: rule.name)
def test_shipped_sweep_is_of_the_shipped_small_model_and_of_the_installed_rule(rule: Rule) -> None:
    slm = swept_model(load_pair_file(find_pair("reference")))
    sweep = read_sweep(WEIGHTS_DIR / "rules" / f"{rule.name}.json", rule, slm)
    assert 0 < sweep.threshold_for(0.2) < sweep.threshold_for(0.1) < sweep.threshold_for(0.05)
