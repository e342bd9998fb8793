import pytest
import torch

from router_service.model import ALL_INPUTS, InputName, Router, RouterConfig

SMALL = RouterConfig(slm_hidden_size=6, num_top_logits=5, projection_size=4, hidden_size=8, num_blocks=2, expansion=3)


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


def test_router_with_paper_sizes_has_about_56_million_parameters() -> None:
    with torch.device("meta"):
        router = Router(RouterConfig(slm_hidden_size=1536))
    assert 52e6 < router.num_parameters < 62e6


def test_forward_returns_one_logit_per_row() -> None:
    router = Router(SMALL).eval()
    assert router(**inputs(7)).shape == (7,)


def test_forward_row_does_not_depend_on_its_batch() -> None:
    router = Router(SMALL).eval()
    given = inputs(7)
    alone = router(**{name: value[3:4] for name, value in given.items()})
    torch.testing.assert_close(router(**given)[3:4], alone)


@pytest.mark.parametrize("left_out", ALL_INPUTS)
def test_forward_ignores_inputs_that_the_config_leaves_out(left_out: InputName) -> None:
    kept = tuple(name for name in ALL_INPUTS if name != left_out)
    config = RouterConfig(6, 5, projection_size=4, hidden_size=8, num_blocks=1, inputs=kept)
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
    ],
)
def test_config_impossible_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        RouterConfig(**{"slm_hidden_size": 6, field: value})  # type: ignore[arg-type]
