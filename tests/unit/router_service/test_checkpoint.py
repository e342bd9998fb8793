import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu, layer_norm, linear

from evaluation.reference.pair import WEIGHTS_DIR
from router_service.checkpoint import (
    RouterCheckpoint,
    count_stored_parameters,
    load_checkpoint,
    load_slm_embedding,
    save_checkpoint,
)
from router_service.checkpoint_files import DESCRIPTION_FILE, WEIGHTS_FILE, CheckpointError
from router_service.description import ModelIdentity, RouterDescription, SweepRow
from router_service.model import ALL_INPUTS, InputName, Router, RouterConfig

CONFIG = RouterConfig(slm_hidden_size=6, num_top_logits=5, projection_size=4, hidden_size=8, num_blocks=1)
SLM = ModelIdentity("slm", "r1", vocab_size=11, hidden_size=6, tokenizer_sha256="00")
ROW = {"threshold": 0.5, "llm_usage_rate": 0.1, "recall": 0.9, "precision": 0.3, "avg_activated_params_b": 1.5}
LLM = ModelIdentity("llm", "r2", vocab_size=11, hidden_size=16, tokenizer_sha256="00")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    description = RouterDescription(
        CONFIG, SLM, LLM, threshold=0.5, sweep=(SweepRow(0.5, 0.1, 0.9, 0.3, 1.5),), metrics={"auc": 0.9}
    )
    torch.manual_seed(0)
    save_checkpoint(RouterCheckpoint(Router(CONFIG), description, torch.ones(11, 6)), tmp_path)
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    path = folder / DESCRIPTION_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_checkpoint_survives_a_round_trip(folder: Path) -> None:
    first = load_checkpoint(folder)
    save_checkpoint(first, folder / "again")
    second = load_checkpoint(folder / "again")
    assert second.description == first.description
    features = torch.ones(2, 6), torch.ones(2, 5), torch.ones(2, 6)
    assert torch.equal(first.router(*features), second.router(*features))
    assert not second.router.training
    assert second.slm_embedding is not None


def forward_of_old_layout(weights: dict[str, torch.Tensor], inputs: dict[InputName, torch.Tensor]) -> torch.Tensor:
    """What the router was before it had layouts: every input projected, then merged, then the blocks."""

    def layer(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    x = torch.cat([linear(inputs[name], *layer(f"projections.{name}")) for name in ALL_INPUTS], dim=-1)
    x = linear(x, *layer("merge"))
    for block in range(len({name.split(".")[1] for name in weights if name.startswith("blocks.")})):
        inner = layer_norm(x, x.shape[-1:], *layer(f"blocks.{block}.norm"))
        x = x + linear(gelu(linear(inner, *layer(f"blocks.{block}.expand"))), *layer(f"blocks.{block}.contract"))
    return linear(layer_norm(x, x.shape[-1:], *layer("norm")), *layer("head")).squeeze(-1)


def test_shipped_router_from_before_layouts_loads_and_scores_bit_for_bit() -> None:
    folder = WEIGHTS_DIR / "router"
    assert "layout" not in json.loads((folder / DESCRIPTION_FILE).read_text())["config"]
    router = load_checkpoint(folder).router
    weights = load_file(folder / WEIGHTS_FILE)
    assert {name: value.shape for name, value in router.state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }
    generator = torch.Generator().manual_seed(0)
    inputs = {name: torch.randn(50, router.config.input_size(name), generator=generator) * 3 for name in ALL_INPUTS}
    with torch.no_grad():
        assert torch.equal(router(**inputs), forward_of_old_layout(weights, inputs))


def test_checkpoint_of_the_papers_layout_survives_a_round_trip(folder: Path) -> None:
    config = dataclasses.replace(CONFIG, layout="logits_projected")
    description = dataclasses.replace(load_checkpoint(folder).description, config=config, llm=None)
    router = Router(config).eval()
    save_checkpoint(RouterCheckpoint(router, description), folder / "again")
    loaded = load_checkpoint(folder / "again")
    assert loaded.description == description
    features = torch.ones(2, 6), torch.ones(2, 5), torch.ones(2, 6)
    assert torch.equal(loaded.router(*features), router(*features))


def test_identities_of_the_same_weights_are_one_model_whatever_its_name() -> None:
    local = dataclasses.replace(SLM, revision="ab" * 8)
    assert local.is_same_model(dataclasses.replace(local, model_id="renamed"))
    assert not local.is_same_model(dataclasses.replace(local, model_id="renamed", vocab_size=12))
    assert not local.is_same_model(dataclasses.replace(local, revision="cd" * 8))
    assert SLM.is_same_model(SLM)
    assert not SLM.is_same_model(dataclasses.replace(SLM, model_id="renamed"))


def test_load_checkpoint_without_embedding_leaves_it_to_the_slm(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    save_checkpoint(RouterCheckpoint(checkpoint.router, checkpoint.description), folder)
    assert load_checkpoint(folder).slm_embedding is None


def test_load_checkpoint_damaged_header_names_the_file(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(b"\xff" * 16 + path.read_bytes()[16:])
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        load_checkpoint(folder)


def test_load_checkpoint_truncated_weights_name_the_file(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        ('{"config": ' * 100_000, "nested too deep"),
        ("[" * 100_000, "nested too deep"),
        ("[1, 2]", "must be an object"),
        ('{"threshold": ' + "1" * 5000 + "}", "not valid JSON"),
        ("\x00", "not valid JSON"),
        ("", "not valid JSON"),
    ],
    ids=["deep_objects", "deep_lists", "list", "digits", "nul", "empty"],
)
def test_damaged_json_of_any_kind_is_an_error_that_names_the_file(folder: Path, damaged: str, words: str) -> None:
    for name, read in (
        (DESCRIPTION_FILE, load_checkpoint),
        ("model.safetensors.index.json", load_slm_embedding),
        ("model.safetensors.index.json", count_stored_parameters),
    ):
        (folder / name).write_text(damaged)
        with pytest.raises(CheckpointError, match=f"{name}: .*{words}"):
            read(folder)


@pytest.mark.parametrize("section", ["weight_map", "metadata"])
def test_index_whose_section_is_no_object_is_an_error_that_names_it(folder: Path, section: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({section: [1]}))
    read = load_slm_embedding if section == "weight_map" else count_stored_parameters
    with pytest.raises(CheckpointError, match=rf"index\.json: {section} must be an object"):
        read(folder)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, DESCRIPTION_FILE])
def test_load_checkpoint_folder_in_place_of_a_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, DESCRIPTION_FILE])
def test_load_checkpoint_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("head.bias", None, "lacks the tensor 'head.bias'"),
        ("stray", torch.zeros(1), "unknown tensor 'stray'"),
        ("head.bias", torch.zeros(3), "'head.bias' has shape"),
        ("head.bias", torch.zeros(1, dtype=torch.float16), "'head.bias' is torch.float16"),
        ("head.bias", torch.tensor([float("nan")]), "'head.bias' holds values that are not finite"),
        ("slm_embedding", torch.zeros(5, 6), "'slm_embedding' has shape"),
    ],
)
def test_load_checkpoint_wrong_tensor_is_named(
    folder: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "format_version is 99"),
        ({"treshold": 0.5}, "unknown field 'treshold'"),
        ({"threshold": "high"}, "threshold must be"),
        ({"threshold": -0.1}, "threshold must be a finite number"),
        ({"slm": {"model_id": "slm"}}, "slm lacks the field 'revision'"),
        ({"config": {"slm_hidden_size": 6, "num_blocks": 0}}, "num_blocks must be at least 1"),
        ({"config": {"slm_hidden_size": 6, "layout": "published"}}, "layout must be one of"),
        ({"config": {"slm_hidden_size": 6, "layout": []}}, "layout must be one of"),
        ({"config": {"slm_hidden_size": 7}}, r"config\.slm_hidden_size is 7"),
        ({"sweep": [{"threshold": 0.5}]}, r"sweep\[0\] lacks"),
        ({"sweep": {}}, "sweep must be a list"),
        ({"sweep": [ROW | {"llm_usage_rate": 1.5}]}, r"sweep\[0\].llm_usage_rate must lie in \[0, 1\], not 1.5"),
        ({"sweep": [ROW | {"recall": float("nan")}]}, r"sweep\[0\].recall must lie in"),
        ({"sweep": [ROW | {"decoded_llm_usage_rate": -1}]}, r"sweep\[0\].decoded_llm_usage_rate must lie in"),
        ({"sweep": [ROW | {"decoded_llm_usage_rate": "much"}]}, r"sweep\[0\].decoded_llm_usage_rate must be"),
        ({"objective": "diferent"}, "objective must be one of"),
        ({"llm": []}, "llm must be an object"),
    ],
)
def test_load_checkpoint_wrong_description_names_the_field(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_load_checkpoint_broken_json_names_the_file(folder: Path) -> None:
    (folder / DESCRIPTION_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=DESCRIPTION_FILE):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "language_model.model.embed_tokens.weight",
        "model.language_model.embed_tokens.weight",
    ],
)
def test_load_slm_embedding_reads_a_single_file_as_float32(tmp_path: Path, name: str) -> None:
    save_file({name: torch.ones(4, 3).bfloat16()}, tmp_path / "model.safetensors")
    embedding = load_slm_embedding(tmp_path)
    assert embedding.shape == (4, 3)
    assert embedding.dtype == torch.float32


def test_load_slm_embedding_follows_a_shard_index(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.full((4, 3), 2.0)}, tmp_path / "model-2.safetensors")
    index = {
        "weight_map": {"lm_head.weight": "model-1.safetensors", "model.embed_tokens.weight": "model-2.safetensors"}
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_slm_embedding(tmp_path).sum() == 24


def test_count_stored_parameters_of_a_single_file_are_its_tensors(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 4, dtype=torch.bfloat16), "b": torch.zeros(5)}, tmp_path / "model.safetensors")
    assert count_stored_parameters(tmp_path) == 17


@pytest.mark.parametrize(
    ("metadata", "config"),
    [({"total_parameters": 7, "total_size": 99}, {}), ({"total_size": 14}, {"torch_dtype": "bfloat16"})],
)
def test_count_stored_parameters_of_shards_come_from_the_index(
    tmp_path: Path, metadata: dict[str, int], config: dict[str, str]
) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": metadata, "weight_map": {}}))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert count_stored_parameters(tmp_path) == 7


def test_count_stored_parameters_index_that_does_not_tell_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"index.json: its metadata and config.json don't tell"):
        count_stored_parameters(tmp_path)


def test_count_stored_parameters_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model.safetensors: no such file"):
        count_stored_parameters(tmp_path)


def test_save_checkpoint_leaves_nothing_half_written(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {WEIGHTS_FILE, DESCRIPTION_FILE}


def test_load_checkpoint_without_an_objective_was_taught_divergence(folder: Path) -> None:
    path = folder / DESCRIPTION_FILE
    fields = json.loads(path.read_text())
    del fields["objective"]
    path.write_text(json.dumps(fields))
    assert load_checkpoint(folder).description.objective == "divergent"


def test_load_slm_embedding_without_one_tells_where_it_looked(tmp_path: Path) -> None:
    save_file({"stray": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens\.weight"):
        load_slm_embedding(tmp_path)
