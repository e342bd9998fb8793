import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.features import check_features, select_top_logits
from router_service.model import RouterConfig

CONFIG = RouterConfig(slm_hidden_size=6, num_top_logits=5)


@settings(deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30), st.integers(1, 40))
def test_select_top_logits_falls_and_keeps_the_largest(values: list[float], num_top_logits: int) -> None:
    top = select_top_logits(torch.tensor([values]), num_top_logits)[0].tolist()
    kept = sorted(values, reverse=True)[:num_top_logits]
    assert top == kept + [kept[-1]] * (num_top_logits - len(kept))


def test_check_features_right_shapes_pass() -> None:
    check_features(CONFIG, torch.zeros(2, 6), torch.zeros(2, 5), torch.zeros(2, 6))


@pytest.mark.parametrize("wrong", ["hidden_state", "top_logits", "token_embedding"])
def test_check_features_wrong_width_names_the_input(wrong: str) -> None:
    features = {
        "hidden_state": torch.zeros(2, 6),
        "top_logits": torch.zeros(2, 5),
        "token_embedding": torch.zeros(2, 6),
    }
    features[wrong] = torch.zeros(2, 9)
    with pytest.raises(ValueError, match=wrong):
        check_features(CONFIG, **features)


def test_check_features_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"top_logits is torch\.float16"):
        check_features(CONFIG, torch.zeros(2, 6), torch.zeros(2, 5).half(), torch.zeros(2, 6))
