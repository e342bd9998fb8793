from pathlib import Path

import pytest

from services.cli.pairs import find_pair, shipped_pairs
from services.common.pair import PairError, load_pair

PUBLISHED = sorted(set(shipped_pairs()) - {"reference"})


def test_shipped_pairs_are_the_reference_pair_and_the_published_ones() -> None:
    assert sorted(shipped_pairs()) == [
        "qwen3-0.6b+30b-a3b",
        "qwen3-0.6b+32b",
        "qwen3-0.6b+8b",
        "qwen3-1.7b+8b",
        "qwen3-4b+8b",
        "r1-1.5b+32b",
        "reference",
    ]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_pair_has_both_ids_with_revisions_and_leaves_the_router_to_the_user(name: str) -> None:
    pair = load_pair(shipped_pairs()[name])
    assert pair.name == name
    assert "/" in pair.slm.model
    assert "/" in pair.llm.model
    assert pair.slm.revision
    assert pair.llm.revision
    assert pair.router is not None
    assert pair.router.checkpoint is None
    assert pair.router.published.startswith("https://huggingface.co/nics-efc/")


def test_paper_pair_runs_the_llm_on_two_ranks() -> None:
    assert load_pair(find_pair("r1-1.5b+32b")).llm.engine.tp_size == 2


def test_find_pair_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.touch()
    assert find_pair(str(path)) == path


def test_find_pair_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PairError, match=r"no pair 'refrence'.*reference"):
        find_pair("refrence")
