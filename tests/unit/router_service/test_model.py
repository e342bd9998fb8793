import dataclasses
from typing import get_args

import pytest
import torch

from router_service.model import ALL_INPUTS, InputName, Layout, Router, RouterConfig

SMALL = RouterConfig(slm_hidden_size=6, num_top_logits=5, projection_size=4, hidden_size=8, num_blocks=2, expansion=3)
LAYOUTS = [dataclasses.replace(SMALL, layout=layout) for layout in get_args(Layout)]


def inputs(batch: int, config: RouterConfig = SMALL) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, config.input_size(name), generator=generator) for name in ALL_INPUTS}


def test_config_defaults_are_the_papers() -> None:
    config = RouterConfig(slm_hidden_size=1536)
    assert (config.num_top_logits, config.hidden_size, config.num_blocks, config.expansion, config.dropout) == (
        100,
        1024,
        6,
        4,
        0.1,
    )


@pytest.mark.parametrize(
    ("layout", "num_parameters"), [("logits_projected", 56_302_081), ("all_projected", 59_974_145)]
)
def test_router_of_each_layout_has_its_parameters(layout: Layout, num_parameters: int) -> None:
    with torch.device("meta"):
        router = Router(RouterConfig(slm_hidden_size=1536, layout=layout))
    assert router.num_parameters == num_parameters


@pytest.mark.parametrize("config", LAYOUTS)
def test_forward_returns_one_logit_per_row(config: RouterConfig) -> None:
    router = Router(config).eval()
    assert router(**inputs(7)).shape == (7,)


@pytest.mark.parametrize("config", LAYOUTS)
def test_first_layer_is_the_one_that_reads_the_input(config: RouterConfig) -> None:
    for name in ALL_INPUTS:
        router, given = Router(config).eval(), inputs(3)
        unchanged = router(**given)
        weight, _ = router.first_layer(name)
        assert weight.shape[1] == config.input_size(name)
        with torch.no_grad():
            weight.div_(2)
        given[name] = 2 * given[name]
        torch.testing.assert_close(router(**given), unchanged)


@pytest.mark.parametrize("config", LAYOUTS)
def test_forward_row_does_not_depend_on_its_batch(config: RouterConfig) -> None:
    router = Router(config).eval()
    given = inputs(7)
    alone = router(**{name: value[3:4] for name, value in given.items()})
    torch.testing.assert_close(router(**given)[3:4], alone)


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("left_out", ALL_INPUTS)
def test_forward_ignores_inputs_that_the_config_leaves_out(left_out: InputName, layout: Layout) -> None:
    kept = tuple(name for name in ALL_INPUTS if name != left_out)
    config = RouterConfig(6, 5, projection_size=4, hidden_size=8, num_blocks=1, inputs=kept, layout=layout)
    router, given = Router(config).eval(), inputs(3)
    expected = router(**given)
    given[left_out] = given[left_out] + 100.0
    assert torch.equal(router(**given), expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slm_hidden_size", 0),
        ("num_blocks", 0),
        ("projection_size", -1),
        ("dropout", 1.0),
        ("inputs", ()),
        ("inputs", ("top_logits", "hidden_state")),
        ("layout", "published"),
    ],
)
def test_config_impossible_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        RouterConfig(**{"slm_hidden_size": 6, field: value})  # type: ignore[arg-type]
