import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.index.token_log import join_batches, pack_tokens, unpack_tokens
from services.orchestrator.routing.actions import AcceptedToken, Source

tokens = st.lists(
    st.builds(AcceptedToken, st.integers(0, 2**32 - 1), st.sampled_from(Source), st.floats(0, 1, width=32)),
    max_size=20,
)


@settings(deadline=None)
@given(tokens)
def test_unpacked_tokens_equal_the_packed(batch: list[AcceptedToken]) -> None:
    assert unpack_tokens(pack_tokens(batch)) == batch


@settings(deadline=None)
@given(tokens, st.lists(st.tuples(st.integers(0, 19), st.integers(1, 20)), max_size=10))
def test_joined_batches_equal_the_tokens_up_to_the_first_gap(
    whole: list[AcceptedToken], spans: list[tuple[int, int]]
) -> None:
    batches = {start: pack_tokens(whole[start : start + length]) for start, length in spans if start < len(whole)}
    covered = np.zeros(len(whole) + 1, dtype=bool)
    for start, packed in batches.items():
        covered[start : start + len(unpack_tokens(packed))] = True

    assert list(join_batches(batches)) == whole[: int(np.argmin(covered))]


@pytest.mark.parametrize(
    "packed", [b"1234", b"12345678", pack_tokens([AcceptedToken(1, Source.SLM, 0.5)])[:4] + b"\x09" * 5]
)
def test_unpack_damaged_bytes_raises_value_error(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"token log|Source"):
        unpack_tokens(packed)
