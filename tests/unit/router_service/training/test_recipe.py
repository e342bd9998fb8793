from pathlib import Path

import pytest

from router_service.model import ALL_INPUTS
from router_service.training.recipe import RecipeError, load_router_config, shipped_recipes

MINIMAL = "name: mine\ndescription: A router of mine.\n"


def test_shipped_recipes_can_all_be_read_and_bear_their_file_name() -> None:
    assert {"r2r-56m", "reference", "reference-different", "reference-hs-tok", "reference-hs"} <= set(
        shipped_recipes()
    )
    for name in shipped_recipes():
        assert load_router_config(name).name == name


def test_ablation_recipes_differ_from_the_reference_in_one_thing_alone() -> None:
    reference = load_router_config("reference")
    ablations: dict[str, dict[str, object]] = {
        "reference-different": {"objective": "different"},
        "reference-hs-tok": {"inputs": ("hidden_state", "token_embedding")},
        "reference-hs": {"inputs": ("hidden_state",)},
    }
    for name, change in ablations.items():
        recipe = load_router_config(name)
        told: dict[str, object] = {"name": recipe.name, "description": recipe.description}
        assert recipe == reference.model_copy(update=told | change)


def test_load_router_config_minimal_file_takes_the_papers_sizes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINIMAL)
    config = load_router_config(str(tmp_path / "mine.yaml")).router_config(1536)
    assert (config.hidden_size, config.num_blocks, config.expansion, config.dropout) == (1024, 6, 4, 0.1)
    assert (config.num_top_logits, config.inputs, config.slm_hidden_size) == (100, ALL_INPUTS, 1536)


def test_load_router_config_inputs_in_any_order_mean_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL + "inputs: [top_logits, hidden_state]\n")
    assert load_router_config(str(path)).inputs == ("hidden_state", "top_logits")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("inputs: [hidden_states]", "inputs.0: unknown value 'hidden_states': did you mean 'hidden_state'?"),
        ("inputs: [entropy]", "unknown value 'entropy': known values: hidden_state, top_logits, token_embedding"),
        ("inputs: []", "inputs: Value error, expected some of hidden_state"),
        ("inputs: [hidden_state, hidden_state]", "each at most once"),
        ("objective: diferent", "objective: unknown value 'diferent': did you mean 'different'?"),
        ("trainning: {}", "unknown key 'trainning': did you mean 'training'?"),
        ("training: {learning_rat: 1}", "unknown key 'training.learning_rat': did you mean 'learning_rate'?"),
        ("training: {learning_rate: 0}", "training.learning_rate: Input should be greater than 0, got 0"),
        ("training: {betas: [0.9, 1.0]}", "training.betas.1: Input should be less than 1"),
        ("sizes: {dropout: 1.0}", "sizes.dropout: Input should be less than 1"),
        ("sizes: {num_blocks: 0}", "sizes.num_blocks: Input should be greater than or equal to 1, got 0"),
        ("- a", "not YAML"),
    ],
)
def test_load_router_config_mistake_names_file_and_key(tmp_path: Path, wrong: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL + wrong + "\n")
    with pytest.raises(RecipeError) as caught:
        load_router_config(str(path))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_load_router_config_unknown_name_tells_the_closest() -> None:
    with pytest.raises(RecipeError, match="no router recipe 'referense', nor a file of this name: did you mean"):
        load_router_config("referense")
