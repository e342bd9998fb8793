import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.features import select_top_logits


@settings(deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30), st.integers(1, 40))
def test_select_top_logits_falls_and_keeps_the_largest(values: list[float], num_top_logits: int) -> None:
    top = select_top_logits(torch.tensor([values]), num_top_logits)[0].tolist()
    kept = sorted(values, reverse=True)[:num_top_logits]
    assert top == kept + [kept[-1]] * (num_top_logits - len(kept))
