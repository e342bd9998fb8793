"""One quick build of the whole road, looked at from several sides."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast

from evaluation.reference import build, evaluate
from evaluation.reference.corpus.arithmetic import MAX_VALUE
from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.pair import load_pair
from evaluation.reference.training.tokenizer import END_TOKEN, VOCAB_SIZE
from labeler_jobs.models.huggingface import render_prompt
from router_service.training.dataset import dataset_statistics, load_routing_data


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    build.main(["--quick", "--out", str(folder), "--threads", "1"])
    return folder


@pytest.fixture(scope="module")
def tokenizer(out: Path) -> PreTrainedTokenizerFast:
    return load_pair(out / "weights").tokenizer


def test_quick_build_gives_a_pair_that_loads(out: Path) -> None:
    pair = load_pair(out / "weights")
    assert pair.sizes.slm + pair.sizes.router < pair.sizes.llm / 20
    assert pair.slm.config.vocab_size == pair.llm.config.vocab_size == VOCAB_SIZE
    assert pair.description.threshold == 0.5
    assert pair.description.llm is not None
    assert pair.description.slm.tokenizer_sha256 == pair.description.llm.tokenizer_sha256


def test_quick_build_second_run_skips_every_step(out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    build.main(["--quick", "--out", str(out)])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_quick_build_weights_are_bfloat16_on_disk(out: Path) -> None:
    with safe_open(out / "weights" / "llm" / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("model.embed_tokens.weight").dtype == torch.bfloat16


def test_quick_build_labels_are_divergent_only_where_tokens_differ(out: Path) -> None:
    folder = out / "labels" / "train" / "dataset"
    divergent, different = (load_routing_data(folder, objective).targets for objective in ("divergent", "different"))
    assert torch.equal(divergent & different, divergent)
    assert 0 < int(divergent.sum()) <= int(different.sum()) < len(different)
    assert dataset_statistics(folder)["all"]["num_tokens"] == len(different)


def test_quick_build_pair_can_be_evaluated(out: Path) -> None:
    pair = load_pair(out / "weights")
    reports = evaluate.evaluate_pair(out / "weights", [draw_sample(index) for index in range(3)], [0.5])
    slm, llm, routed = reports
    assert (slm.llm_usage_rate.value, llm.llm_usage_rate.value) == (0.0, 1.0)
    assert routed.avg_activated_params_b.value == pytest.approx(
        pair.sizes.avg_activated_params_b(routed.llm_usage_rate.value)
    )
    assert evaluate.render_table(reports, pair.sizes.llm / 1e9).row_count == 3


@pytest.mark.parametrize("prefix", ["", " "])
def test_tokenizer_numbers_of_the_suite_are_single_tokens(tokenizer: PreTrainedTokenizerFast, prefix: str) -> None:
    assert all(len(tokenizer.encode(f"{prefix}{number}")) == 1 for number in range(MAX_VALUE + 1))


@pytest.mark.parametrize(
    "text", ["So 7 plus 4 is 11.\n", "na\u00efve \u6f22\u5b57 \U0001f600", "  two  spaces\t\n\n"]
)
def test_tokenizer_any_text_survives_a_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_chat_prompt_ends_with_the_assistants_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    text = tokenizer.decode(render_prompt(tokenizer, "How many?"))
    assert text == f"<|im_start|>user\nHow many?{END_TOKEN}\n<|im_start|>assistant\n"


def test_tokenizer_ids_fit_the_models_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= VOCAB_SIZE
