"""Whole builds of a tiny router, from datasets to a checkpoint, looked at from several sides."""

import csv
import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from router_service.checkpoint import load_checkpoint
from router_service.checkpoint_files import DESCRIPTION_FILE, WEIGHTS_FILE, CheckpointError
from router_service.training.build import TRAINING_DIR, build_checkpoint
from router_service.training.calibrate import Target
from router_service.training.dataset import DatasetError
from router_service.training.routing_data import Batch
from services.common.weights import digest_weights
from tests.unit.router_service.made import (
    EMBEDDING,
    RECIPE,
    made_data,
    made_identities,
    made_models,
    made_table,
    write_dataset,
)


@dataclasses.dataclass(frozen=True)
class Made:
    train: Path
    validation: Path
    slm_dir: Path
    llm_dir: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    slm_dir, llm_dir = made_models(folder)
    identities = made_identities(slm_dir, llm_dir)
    train = write_dataset(folder / "train", made_table(made_data(600, seed=1), identities))
    validation = write_dataset(folder / "validation", made_table(made_data(400, seed=2), identities))
    return Made(train, validation, slm_dir, llm_dir)


def build(made: Made, out: Path, **options: object) -> None:
    build_checkpoint(RECIPE, made.train, made.validation, made.slm_dir, made.llm_dir, out, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def out(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("router")
    build(made, folder, target=Target("llm_usage_rate", 0.2))
    return folder


def test_build_checkpoint_loads_and_describes_itself(made: Made, out: Path) -> None:
    description = load_checkpoint(out).description
    assert (description.threshold, description.objective) == (0.5, "divergent")
    assert {"slm": description.slm, "llm": description.llm} == made_identities(made.slm_dir, made.llm_dir)
    assert description.metrics["validation_llm_usage_rate"] == pytest.approx(0.2, abs=0.01)
    assert description.metrics["validation_auc"] > 0.9
    assert description.metrics["llm_params"] == 704 * 16
    assert description.data["train"]["num_tokens"] == 600
    assert set(description.data) == {
        f"{name}{domain}" for name in ("train", "validation") for domain in ("", "/math", "/code")
    }
    usages = [row.llm_usage_rate for row in description.sweep]
    assert usages == sorted(usages)
    assert len(usages) > 30


def test_build_checkpoint_leaves_two_files_and_the_figures(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {DESCRIPTION_FILE, WEIGHTS_FILE, TRAINING_DIR}
    names = {"curves.csv", "curves.png", "sweep.png", "sweep.svg"}
    assert {path.name for path in (out / TRAINING_DIR).iterdir()} == names
    with (out / TRAINING_DIR / "curves.csv").open(newline="") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [1, 2, 3, 4]


def test_build_checkpoint_embedding_is_stored_on_demand_alone(made: Made, out: Path, tmp_path: Path) -> None:
    build(made, tmp_path, with_embedding=True)
    stored = load_checkpoint(tmp_path).slm_embedding
    assert stored is not None
    assert torch.equal(stored, EMBEDDING)
    assert load_checkpoint(out).slm_embedding is None


def test_build_checkpoint_equal_seeds_give_equal_files_killed_or_not(made: Made, tmp_path: Path) -> None:
    def until_killed(batches: Iterable[Batch], num_steps: int, epoch: int) -> Iterable[Batch]:
        if epoch == 3:
            raise KeyboardInterrupt
        return batches

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    build(made, whole, seed=5)
    with pytest.raises(KeyboardInterrupt):
        build(made, resumed, seed=5, show_steps=until_killed)
    assert not (resumed / DESCRIPTION_FILE).exists()
    build(made, resumed, seed=5)
    for name in (WEIGHTS_FILE, DESCRIPTION_FILE):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()


def test_build_checkpoint_datasets_of_two_pairs_are_refused(made: Made, tmp_path: Path) -> None:
    identities = made_identities(made.slm_dir, made.llm_dir)
    identities["llm"] = dataclasses.replace(identities["llm"], revision="other")
    validation = write_dataset(tmp_path / "validation", made_table(made_data(50, seed=2), identities))
    with pytest.raises(DatasetError, match=r"at revisions .* and other"):
        build(dataclasses.replace(made, validation=validation), tmp_path / "out")


def test_build_checkpoint_slm_of_another_size_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has shape \(704, 16\), the datasets were labelled with \(704, 6\)"):
        build(dataclasses.replace(made, slm_dir=made.llm_dir), tmp_path / "out")


def test_build_checkpoint_slm_of_other_weights_is_refused_unless_allowed(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "slm"
    shutil.copytree(made.slm_dir, other)
    save_file({"model.embed_tokens.weight": EMBEDDING + 1}, other / "model.safetensors")
    own, found = digest_weights(made.slm_dir), digest_weights(other)
    with pytest.raises(CheckpointError, match=rf"{other}: the SLM's weights are {found}; .* {own} of 'made-slm'"):
        build(dataclasses.replace(made, slm_dir=other), tmp_path / "out")
    build(dataclasses.replace(made, slm_dir=other), tmp_path / "out", allow_other_slm=True)
    assert load_checkpoint(tmp_path / "out").description.slm.revision == own


def test_build_checkpoint_slm_with_another_tokenizer_is_refused(made: Made, tmp_path: Path) -> None:
    identities = made_identities(made.slm_dir, made.llm_dir)
    identities["slm"] = dataclasses.replace(identities["slm"], tokenizer_sha256="00")
    folder = write_dataset(tmp_path / "train", made_table(made_data(50, seed=2), identities))
    with pytest.raises(CheckpointError, match=r"tokenizer.json isn't that of 'made-slm'"):
        build(dataclasses.replace(made, train=folder, validation=folder), tmp_path / "out")


def test_build_checkpoint_recipe_that_reads_more_logits_than_there_are_is_refused(made: Made, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"sizes": RECIPE.sizes.model_copy(update={"num_top_logits": 100})})
    with pytest.raises(DatasetError, match="'top_logits' has 5 columns, the recipe 'made' reads 100"):
        build_checkpoint(recipe, made.train, made.validation, made.slm_dir, made.llm_dir, tmp_path)
