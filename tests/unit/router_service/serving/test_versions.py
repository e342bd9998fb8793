"""Which routers a process holds, and what it does when its checkpoint's directory changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from trivium.v1 import router_pb2

from router_service.checkpoint_files import CheckpointError
from router_service.serving.checkpoint_watch import CheckpointWatch
from router_service.serving.versions import Versions


class _Scorer:
    num_top_logits = 100

    def __init__(self, weights: str, **info: Any) -> None:
        self.info = router_pb2.RouterInfo(weights_sha256=weights, checkpoint=f"of {weights}", hidden_size=4)
        self.info.MergeFrom(router_pb2.RouterInfo(**info))

    def score(
        self, token_ids: NDArray[np.int64], hidden_states: NDArray[np.float32], top_logits: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        raise NotImplementedError

    def warm_up(self, num_rows: int) -> None:
        raise NotImplementedError


def test_the_one_asked_for_least_recently_goes_first_and_the_current_one_never() -> None:
    first, second, third = (_Scorer(name) for name in "abc")
    versions = Versions(first, most=2)
    versions.swap(second)
    assert (versions.named("a"), versions.named("b"), versions.named("")) == (first, second, second)
    assert versions.held == ["b", "a"]
    # The first was asked for since: but the current one is never the oldest.
    versions.named("a")
    versions.swap(third)
    assert versions.held == ["c", "a"]
    assert versions.named("b") is None


def test_router_that_was_there_before_comes_back() -> None:
    first, second = _Scorer("a"), _Scorer("b")
    versions = Versions(first, most=2)
    versions.swap(second)
    again = _Scorer("a", default_threshold=0.25)
    versions.swap(again)
    assert versions.current is versions.named("a") is again
    assert versions.held == ["a", "b"]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"hidden_size": 8}, "hidden_size: it was trained with 8"),
        ({"vocab_size": 7}, "vocab_size: it was trained with 7"),
        ({"tokenizer_sha256": "cc"}, "tokenizer_sha256: it was trained with cc"),
        ({"slm_revision": "v2"}, "slm_revision: it was trained with v2"),
    ],
)
def test_router_of_another_slm_is_refused_and_the_old_one_serves_on(info: dict[str, Any], message: str) -> None:
    versions = Versions(first := _Scorer("a"), most=2)
    with pytest.raises(CheckpointError, match=f"^of b: {message}"):
        versions.swap(_Scorer("b", **info))
    assert versions.current is first
    assert versions.held == ["a"]


def test_shadow_is_found_by_its_weights_and_serves_nobody_who_names_none() -> None:
    versions = Versions(first := _Scorer("a"), most=2)
    shadow = _Scorer("s")
    versions.cast_shadow(shadow)
    assert (versions.named("s"), versions.named("")) == (shadow, first)
    # It takes no place among the others, and none of theirs is its.
    for name in "bcd":
        versions.swap(_Scorer(name))
    assert versions.held == ["d", "c"]
    assert versions.named("s") is shadow
    with pytest.raises(CheckpointError, match=r"^of t: hidden_size: it was trained with 8"):
        versions.cast_shadow(_Scorer("t", hidden_size=8))
    assert versions.named("s") is shadow


def test_router_of_another_number_of_logits_is_refused() -> None:
    versions = Versions(_Scorer("a"), most=2)
    other = _Scorer("b")
    other.num_top_logits = 50
    with pytest.raises(CheckpointError, match=r"^of b: num_top_logits is 50"):
        versions.swap(other)
    with pytest.raises(CheckpointError, match=r"^of b: num_top_logits is 50"):
        Versions(other, most=2)


def _write(folder: Path, content: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = [folder / "a", folder / "b"]
    for path in files:
        path.write_text(content)
    return files


def test_change_counts_once_and_when_it_has_come_to_rest(tmp_path: Path) -> None:
    files = _write(tmp_path / "first", "x")
    watch = CheckpointWatch(files)
    assert not watch.has_changed()
    files[0].write_text("longer")
    assert not watch.has_changed()
    files[1].write_text("longer")
    assert [watch.has_changed() for _ in range(3)] == [False, True, False]
    files[0].unlink()
    assert [watch.has_changed() for _ in range(3)] == [False] * 3


def test_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    _write(tmp_path / "first", "x")
    _write(tmp_path / "second", "y")
    link = tmp_path / "link"
    link.symlink_to("first")
    watch = CheckpointWatch([link / "a", link / "b"])
    os.symlink("second", tmp_path / "aside")
    (tmp_path / "aside").replace(link)
    assert [watch.has_changed() for _ in range(3)] == [False, True, False]
