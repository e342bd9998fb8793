"""Made files in the published layout, and its forward pass written from the definition, on tensors alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from evaluation.reference.pair import WEIGHTS_DIR
from router_service.published.layout import MODEL_TYPE

VOCAB = 704
"""Of the shipped tokenizer, which made SLMs have."""


def made_state(
    slm_hidden: int, hidden: int = 16, num_blocks: int = 2, expansion: int = 4, num_logits: int = 100, seed: int = 0
) -> dict[str, Tensor]:
    """A state_dict without the embedding; no part of it is left at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def linear(name: str, num_in: int, num_out: int) -> None:
        state[f"{name}.weight"] = torch.randn(num_out, num_in, generator=generator) * (1.5 / num_in) ** 0.5
        state[f"{name}.bias"] = torch.randn(num_out, generator=generator) * 0.3

    def norm(name: str) -> None:
        state[f"{name}.weight"] = 1 + torch.randn(hidden, generator=generator) * 0.2
        state[f"{name}.bias"] = torch.randn(hidden, generator=generator) * 0.2

    linear("logits_projection", num_logits, slm_hidden)
    linear("combined_projection", 3 * slm_hidden, hidden)
    linear("backbone.input_projection", hidden, hidden)
    for block in range(num_blocks):
        norm(f"backbone.blocks.{block}.layer_norm")
        linear(f"backbone.blocks.{block}.mlp.0", hidden, hidden * expansion)
        linear(f"backbone.blocks.{block}.mlp.3", hidden * expansion, hidden)
    norm("backbone.output_layer.0")
    linear("backbone.output_layer.1", hidden, 1)
    return state


def made_content(state: dict[str, Tensor], **changes: Any) -> dict[str, Any]:
    """The dict that the authors' code saves; a change is of a section, or of one field as `section__field`."""
    content: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "init_args": {
            # As two of the authors' configurations have it: not the SLM's.
            "hidden_states_size": 4321,
            "logits_size": 100,
            "expansion_factor": 4,
            "dropout_rate": 0.1,
            "use_position_embedding": False,
            "freeze_lm_head": True,
            "normalize_input": False,
            "pretrained_model_name": "/somewhere/private",
            "dtype": torch.float32,
        },
        "common_args": {"threshold": 0.3861, "input_type": ["hidden_states", "token", "logits"]},
        "model_specific_args": {},
        "state_dict": state,
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            content[section] = content[section] | {field: value}
        else:
            content[section] = value
    return content


def published_scores(state: dict[str, Tensor], hidden_states: Tensor, embeddings: Tensor, logits: Tensor) -> Tensor:
    """Divergence probabilities [rows] of the published network: every sum written out, none of it the product's."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = torch.cat([hidden_states, embeddings, linear("logits_projection", logits)], dim=-1)
    x = linear("backbone.input_projection", linear("combined_projection", x))
    block = 0
    while f"backbone.blocks.{block}.layer_norm.weight" in state:
        inner = linear(f"backbone.blocks.{block}.mlp.0", norm(f"backbone.blocks.{block}.layer_norm", x))
        gelu = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        x = x + linear(f"backbone.blocks.{block}.mlp.3", gelu)
        block += 1
    output = linear("backbone.output_layer.1", norm("backbone.output_layer.0", x))
    return 1 / (1 + torch.exp(-output.squeeze(-1)))


def made_features(slm_hidden: int, num_rows: int = 1000, seed: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [rows], hidden states [rows, slm_hidden] and falling logits [rows, 100], as large as real ones."""
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(0, VOCAB, (num_rows,), generator=generator)
    hidden_states = torch.randn(num_rows, slm_hidden, generator=generator) * 2
    logits = (torch.randn(num_rows, 100, generator=generator) * 3 + 12).sort(descending=True).values
    return token_ids, hidden_states, logits


def made_slm(folder: Path, slm_hidden: int, seed: int = 1) -> Path:
    """An SLM's folder: a real tokenizer, a configuration, and no weights but the embedding."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(WEIGHTS_DIR / "slm" / name, folder)
    config = {"model_type": "qwen2", "vocab_size": VOCAB, "hidden_size": slm_hidden, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    embedding = torch.randn(VOCAB, slm_hidden, generator=torch.Generator().manual_seed(seed))
    save_file({"model.embed_tokens.weight": embedding}, folder / "model.safetensors")
    return folder
