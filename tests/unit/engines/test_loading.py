from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    GraniteConfig,
    Mistral3Config,
    PreTrainedConfig,
)

from router_service.checkpoint import load_slm_embedding
from services.engines.base import EngineOptions, Extension, ModelLoadError
from services.engines.transformers import TransformersLlmEngine
from tests.contract.families import family_config
from tests.contract.reference import PlainModel
from tests.contract.tiny_models import CONTEXT_LEN, EOS_TOKEN_ID, VOCAB_SIZE, write_tiny_slm


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_slm(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def change_config(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


async def start_and_stop(options: EngineOptions) -> None:
    engine = TransformersLlmEngine(options)
    try:
        await engine.start()
    finally:
        await engine.stop()


async def test_started_engine_says_what_the_model_is(folder: Path) -> None:
    engine = TransformersLlmEngine(EngineOptions(model=str(folder)))
    await engine.start()
    info = engine.info
    await engine.stop()
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights, "the weights are tied"
    assert info.num_parameters == sum(weight.numel() for weight in weights.values())
    assert (info.vocab_size, info.hidden_size, info.context_len) == (VOCAB_SIZE, 32, CONTEXT_LEN)
    assert info.eos_token_ids == (EOS_TOKEN_ID,)
    assert len(info.tokenizer_sha256) == 64
    assert (info.engine, info.model_id) == ("transformers", str(folder))


def damage_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(b"\xff" * 16 + file.read_bytes()[16:])


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def drop_a_weight(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})


def other_weight_format(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage_header, "model.safetensors is damaged"),
        (cut_weights, "model.safetensors is damaged"),
        (drop_a_weight, "config.json.*mlp.up_proj"),
        (other_weight_format, "model.safetensors is missing"),
        (no_tokenizer, "tokenizer.json can't be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json can't be used"),
        (lambda folder: change_config(folder, model_type="martian"), "config.json can't be used"),
        (lambda folder: change_config(folder, hidden_size=48), "weights"),
        (
            lambda folder: change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
            "the weights can't be loaded: .*pip install",
        ),
        (lambda folder: change_config(folder, num_hidden_layers=3, layer_types=None), "config.json"),
        (
            lambda folder: change_config(folder, layer_types=["full_attention", "chunked_attention"]),
            "layer_types contains 'chunked_attention': .*--engine sglang",
        ),
        (
            lambda folder: change_config(folder, layer_types=None, attention_chunk_size=16),
            "attention_chunk_size is 16",
        ),
        (
            lambda folder: change_config(folder, use_bidirectional_attention=True),
            "use_bidirectional_attention is True",
        ),
        (
            lambda folder: change_config(
                folder, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
            ),
            "rope_parameters.rope_type is 'dynamic'",
        ),
        (
            lambda folder: change_config(folder, model_type="siglip_vision_model"),
            "model_type 'siglip_vision_model' is no language model .*--engine sglang",
        ),
    ],
)
async def test_unusable_model_names_the_file_or_field(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(ModelLoadError, match=message):
        await start_and_stop(EngineOptions(model=str(folder)))


async def test_unknown_dtype_is_named(folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="dtype: 'int3'"):
        await start_and_stop(EngineOptions(model=str(folder), dtype="int3"))


async def test_missing_folder_names_the_model(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="nowhere"):
        await start_and_stop(EngineOptions(model=str(tmp_path / "nowhere")))


async def test_bfloat16_model_starts_and_answers(folder: Path) -> None:
    engine = TransformersLlmEngine(EngineOptions(model=str(folder), dtype="bfloat16"))
    await engine.start()
    engine.extend(Extension(1, 0, [1, 2, 3], [3]))
    (answer,), _refusals = await engine.step()
    await engine.stop()
    assert 0 <= answer.token_ids[0] < VOCAB_SIZE


async def test_model_that_scales_its_logits_is_answered_as_by_plain_decoding(folder: Path) -> None:
    config = GraniteConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LEN,
        logits_scaling=-3.0,
        initializer_range=0.4,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    engine = TransformersLlmEngine(EngineOptions(model=str(folder)))
    await engine.start()
    token_ids = list(range(40, 70))
    engine.extend(Extension(1, 0, token_ids, [5, 30]))
    (answer,), _refusals = await engine.step()
    await engine.stop()
    reference = PlainModel(folder)
    assert answer.token_ids == [reference.next_token(token_ids[:5]), reference.next_token(token_ids)]


def seeing_config(family: str) -> PreTrainedConfig:
    text = family_config(family, tie_word_embeddings=True).to_dict()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    if family == "gemma3":
        return Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=3)
    return Mistral3Config(text_config=text, vision_config={"model_type": "pixtral", **vision}, image_token_index=3)


@pytest.mark.parametrize("family", ["gemma3", "mistral"])
async def test_model_that_also_sees_images_is_answered_as_by_its_own_forward(folder: Path, family: str) -> None:
    model = AutoModelForImageTextToText.from_config(seeing_config(family))  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    engine = TransformersLlmEngine(EngineOptions(model=str(folder)))
    await engine.start()
    token_ids = list(range(40, 70))
    engine.extend(Extension(1, 0, token_ids, list(range(1, 31))))
    (answer,), _refusals = await engine.step()
    await engine.stop()
    with torch.inference_mode():
        logits = model(torch.tensor([token_ids]), use_cache=False).logits[0]
    assert answer.token_ids == logits.argmax(dim=-1).tolist()
    # What the router is given for a token: its row before Gemma's scale.
    assert torch.equal(load_slm_embedding(folder), model.get_input_embeddings().weight)
