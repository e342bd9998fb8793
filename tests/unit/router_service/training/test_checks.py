"""What can only fail or mislead in the end is refused before the first epoch."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from router_service.training.build import build_checkpoint
from router_service.training.calibrate import Target
from router_service.training.checks import check_disjoint, check_target
from router_service.training.dataset import DatasetError
from router_service.training.recalibrate import recalibrate
from router_service.training.recipe import RouterRecipe
from router_service.training.routing_data import RoutingData
from router_service.training.state import EpochRecord
from services.common.model_sizes import ModelSizes
from tests.unit.router_service.made import (
    LOGITS,
    RECIPE,
    made_data,
    made_identities,
    made_models,
    made_table,
    write_dataset,
)

TARGET = Target("llm_usage_rate", 0.2)
Change = Callable[[RoutingData], RoutingData]


@dataclasses.dataclass(frozen=True)
class Made:
    folder: Path
    slm_dir: Path
    llm_dir: Path

    def dataset(self, name: str, rows: int, seed: int, change: Change | None = None) -> Path:
        data = made_data(rows, seed)
        identities = made_identities(self.slm_dir, self.llm_dir)
        table = made_table(change(data) if change else data, identities)
        return write_dataset(self.folder / name / "dataset", table)

    def train(self, train: Path, validation: Path, target: Target = TARGET, recipe: RouterRecipe = RECIPE) -> Path:
        """Trains; `epochs` is there once one has ended."""
        out = self.folder / "router"
        build_checkpoint(
            recipe, train, validation, self.slm_dir, self.llm_dir, out, target=target, on_epoch=self.on_epoch
        )
        return out

    def on_epoch(self, record: EpochRecord) -> None:
        (self.folder / "epochs").touch()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path, *made_models(tmp_path))


def labelled(*labels: int) -> Change:
    """Rows that take these labels in turns."""

    def change(data: RoutingData) -> RoutingData:
        found = torch.tensor([labels[row % len(labels)] for row in range(len(data))], dtype=torch.int8)
        return dataclasses.replace(data, labels=found)

    return change


def fewer_logits(data: RoutingData) -> RoutingData:
    return dataclasses.replace(data, top_logits=data.top_logits[:, : LOGITS - 2].clone())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (labelled(0), "field 'label': 0 of 90 rows are divergent; both classes are needed"),
        (labelled(2), "field 'label': 90 of 90 rows are divergent"),
        (labelled(0, 1), "field 'label': 0 of 90 rows are divergent"),
        (fewer_logits, f"field 'top_logits' has {LOGITS - 2} columns"),
    ],
    ids=["none diverges", "all diverge", "neutral alone", "few logits"],
)
def test_train_data_without_two_classes_or_with_few_logits_is_refused_before_any_epoch(
    made: Made, change: Change, message: str
) -> None:
    good, bad = made.dataset("good", 90, 1), made.dataset("bad", 90, 2, change)
    for train, validation in ((good, bad), (bad, good)):
        with pytest.raises(DatasetError, match=message) as error:
            made.train(train, validation)
        assert str(bad) in str(error.value)
    assert not (made.folder / "epochs").exists()


def test_train_that_routes_all_differences_needs_both_classes_of_those_too(made: Made) -> None:
    good, bad = made.dataset("good", 90, 1), made.dataset("bad", 90, 2, labelled(1, 2))
    recipe = RECIPE.model_copy(update={"objective": "different"})
    with pytest.raises(DatasetError, match="90 of 90 rows are to be routed"):
        made.train(good, bad, recipe=recipe)


@pytest.mark.parametrize(
    "target",
    [
        Target("llm_usage_rate", 0.0),
        Target("llm_usage_rate", 1.0),
        Target("recall", 0.0),
        Target("recall", 1.0),
        Target("avg_activated_params_b", 0.0),
        Target("avg_activated_params_b", 1.0),
    ],
    ids=str,
)
def test_target_that_no_router_meets_is_refused_before_any_epoch(made: Made, target: Target) -> None:
    train, validation = made.dataset("train", 90, 1), made.dataset("validation", 90, 2)
    with pytest.raises(ValueError, match=rf"{target.name} can't be {target.value:g}: .* one model writes everything"):
        made.train(train, validation, target)
    assert not (made.folder / "epochs").exists()


def test_check_target_budget_says_what_the_pair_takes() -> None:
    sizes = ModelSizes(slm=1_000_000_000, router=0, llm=9_000_000_000)
    check_target(Target("avg_activated_params_b", 1.5), sizes)
    for budget in (0.5, 1.0, 10.0, 12.0):
        with pytest.raises(ValueError, match=rf"can't be {budget:g}: the pair takes 1 to 10"):
            check_target(Target("avg_activated_params_b", budget), sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (labelled(0), "0 of 90 rows are divergent"),
        (labelled(2), "90 of 90 rows are divergent"),
        (labelled(0, 1), "0 of 90 rows are divergent"),
        (fewer_logits, f"has {LOGITS - 2} columns, the router in .* reads {LOGITS}"),
    ],
    ids=["none diverges", "all diverge", "neutral alone", "few logits"],
)
def test_calibrate_data_without_two_classes_or_with_few_logits_is_refused(
    made: Made, change: Change, message: str
) -> None:
    out = made.train(made.dataset("train", 300, 1), made.dataset("validation", 300, 2))
    before = (out / "router.json").read_bytes()
    with pytest.raises(DatasetError, match=message):
        recalibrate(out, made.dataset("bad", 90, 3, change), TARGET, made.slm_dir)
    with pytest.raises(ValueError, match="recall can't be 1"):
        recalibrate(out, made.dataset("new", 90, 3), Target("recall", 1.0), made.slm_dir)
    assert (out / "router.json").read_bytes() == before


def test_calibrate_on_what_the_router_has_learnt_is_refused(made: Made) -> None:
    train = made.dataset("train", 300, 1)
    out = made.train(train, made.dataset("validation", 300, 2))
    with pytest.raises(DatasetError, match="is the dataset that the router has learnt from"):
        recalibrate(out, train, TARGET, made.slm_dir)


def write_queries(dataset: Path, *texts: str) -> Path:
    folder = dataset.parent / "queries"
    folder.mkdir()
    ids = [f"file-{number}" for number in range(len(texts))]
    pq.write_table(pa.table({"query_id": ids, "query": list(texts)}), folder / "part-00000-of-00001.parquet")
    return dataset


def test_check_disjoint_same_folder_is_refused(made: Made) -> None:
    train = made.dataset("train", 90, 1)
    with pytest.raises(DatasetError, match="is the dataset that is learnt from"):
        check_disjoint(train, train.parent / "." / "dataset")


def test_check_disjoint_same_responses_under_the_same_ids_are_refused(made: Made) -> None:
    train, copy = made.dataset("train", 90, 1), made.dataset("copy", 90, 1)
    with pytest.raises(DatasetError, match=r"copy/dataset: shares 9 queries with .*, such as 'q0'"):
        check_disjoint(train, copy)
    # A part of them is enough.
    with pytest.raises(DatasetError, match="shares 3 queries"):
        check_disjoint(train, made.dataset("part", 90, 4, lambda data: joined(made_data(90, 1), data, 30)))


def joined(first: RoutingData, second: RoutingData, rows: int) -> RoutingData:
    def join(name: str) -> torch.Tensor:
        return torch.cat([getattr(first, name)[:rows], getattr(second, name)[rows:]])

    return RoutingData(join("hidden_state"), join("top_logits"), join("token_ids"), join("labels"))


def test_check_disjoint_same_texts_are_refused_whatever_their_ids(made: Made) -> None:
    train = write_queries(made.dataset("train", 90, 1), "What is 1?", "What is 2?")
    validation = write_queries(made.dataset("validation", 90, 2), "What is 3?", "What  is\n1?")
    with pytest.raises(DatasetError, match=r"shares 1 queries with .*, such as 'file-1'"):
        check_disjoint(train, validation)


def test_check_disjoint_other_texts_under_the_same_ids_pass(made: Made) -> None:
    train = write_queries(made.dataset("train", 90, 1), "What is 1?")
    check_disjoint(train, write_queries(made.dataset("validation", 90, 1), "What is 2?"))
    check_disjoint(train, made.dataset("other", 90, 2))


def test_train_datasets_that_share_queries_are_refused_before_any_epoch(made: Made) -> None:
    train = made.dataset("train", 90, 1)
    with pytest.raises(DatasetError, match="shares 9 queries"):
        made.train(train, made.dataset("copy", 90, 1))
    assert not (made.folder / "epochs").exists()
