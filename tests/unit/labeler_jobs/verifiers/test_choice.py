from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from evaluation.reference.pair import WEIGHTS_DIR, load_tokenizer
from labeler_jobs.verifiers.choice import open_llm_verifier, reach_llm_verifier
from labeler_jobs.verifiers.names import VerifierChoiceError
from labeler_jobs.verifiers.verifier import Verdict, VerificationCase
from services.engines.base import EngineOptions
from tests.unit.labeler_jobs.verifiers.misbehaving_server import answered, serve

CASE = VerificationCase("It begins.", "It is 12.", "It is 15.", "")
OPTIONS = EngineOptions(model="", max_batch_size=2, kv_cache_tokens=8192)


def save_untrained_model(folder: Path) -> Path:
    """A model of noise with the suite's tokenizer and a context that the prompt fits into."""
    tokenizer = load_tokenizer(WEIGHTS_DIR / "llm")
    tokenizer.model_max_length = 8192
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=8192, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)  # type: ignore[no-untyped-call]
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_open_llm_verifier_url_asks_the_model_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_VERIFIER_MODEL", "judge")
    with (
        serve(lambda number, prompt: answered('{"divergent": true}')) as server,
        open_llm_verifier(server.base_url, "transformers", OPTIONS) as verifier,
    ):
        assert verifier.judge([CASE]) == [Verdict(True)]
    assert server.payloads[0]["model"] == "judge"


def test_open_llm_verifier_local_model_answers_on_an_engine(tmp_path: Path) -> None:
    folder = save_untrained_model(tmp_path / "model")
    with open_llm_verifier(f"model:{folder}", "transformers", OPTIONS) as verifier:
        assert verifier.judge([CASE, CASE]) == [Verdict(True, unparsable=True)] * 2
    assert verifier.num_unparsable == 2


@pytest.mark.parametrize("name", ["", "model:", "gpt", "ftp://host"])
def test_open_llm_verifier_unknown_name_is_refused(name: str) -> None:
    with (
        pytest.raises(VerifierChoiceError, match="expected 'suite', a URL"),
        open_llm_verifier(name, "transformers", OPTIONS),
    ):
        pass


def test_reach_llm_verifier_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = save_untrained_model(tmp_path / "model")
    reach_llm_verifier(f"model:{folder}")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(VerifierChoiceError, match="has no chat template, so it can't be asked"):
        reach_llm_verifier(f"model:{folder}")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(VerifierChoiceError, match="can't be loaded"):
        reach_llm_verifier(f"model:{folder}")


def test_open_llm_verifier_missing_or_wrong_setting_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIVIUM_VERIFIER_CONCURRENCY", "a secret")
    with (
        pytest.raises(VerifierChoiceError) as error,
        open_llm_verifier("http://127.0.0.1:1", "transformers", OPTIONS),
    ):
        pass
    assert "TRIVIUM_VERIFIER_MODEL: Field required" in str(error.value)
    assert "TRIVIUM_VERIFIER_CONCURRENCY: " in str(error.value)
    assert "a secret" not in str(error.value)
