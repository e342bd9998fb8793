"""Whole imports: from a made file to a checkpoint that scores as the published network does."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from router_service.checkpoint import load_checkpoint
from router_service.checkpoint_files import WEIGHTS_FILE, CheckpointError
from router_service.published.importing import import_router
from router_service.published.reading import PublishedRouterError
from router_service.serving.scorer import Scorer
from tests.unit.router_service.made import identify_model
from tests.unit.router_service.published.made_files import (
    made_content,
    made_features,
    made_slm,
    made_state,
    published_scores,
)

TINY = 12
PAPER = {"hidden": 1024, "num_blocks": 6}


def saved(folder: Path, state: dict[str, Tensor]) -> Path:
    torch.save(made_content(state), folder / "default_router.pt")
    return folder / "default_router.pt"


@pytest.mark.parametrize(
    ("slm_hidden", "sizes"),
    [(1536, PAPER), (1024, PAPER), (TINY, {}), (7, {"hidden": 24})],
    ids=["1.5B", "0.6B", "tiny", "odd"],
)
def test_imported_router_scores_a_thousand_rows_as_the_published_network_does(
    tmp_path: Path, slm_hidden: int, sizes: dict[str, int]
) -> None:
    state = made_state(slm_hidden, **sizes)
    slm_dir = made_slm(tmp_path / "slm", slm_hidden)
    slm = identify_model(slm_dir, "made/slm")
    description = import_router(saved(tmp_path, state), slm, slm_dir, tmp_path / "out")
    token_ids, hidden_states, logits = made_features(slm_hidden)
    scorer = Scorer(tmp_path / "out", slm_dir)
    scores = scorer.score(token_ids.numpy(), hidden_states.numpy(), logits.numpy())
    embeddings = load_file(slm_dir / "model.safetensors")["model.embed_tokens.weight"][token_ids]
    expected = published_scores(state, hidden_states, embeddings, logits)
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-6, rtol=0)
    assert expected.std() > 0.02
    assert scorer.info.num_parameters == sum(value.numel() for value in state.values())
    assert scorer.info.default_threshold == pytest.approx(description.threshold) == pytest.approx(0.3861)
    assert len(scorer.info.threshold_table) == 0


def test_imported_router_at_the_papers_size_has_the_papers_weights(tmp_path: Path) -> None:
    assert sum(value.numel() for value in made_state(1536, 1024, 6).values()) == 56_302_081


def test_imported_checkpoint_says_what_it_knows_and_no_more(tmp_path: Path) -> None:
    slm_dir = made_slm(tmp_path / "slm", TINY)
    slm = identify_model(slm_dir, "made/slm")
    written = import_router(saved(tmp_path, made_state(TINY)), slm, slm_dir, tmp_path / "out")
    description = load_checkpoint(tmp_path / "out").description
    assert description == written
    assert (description.slm, description.llm, description.sweep) == (slm, None, ())
    assert description.metrics == {"slm_params": 704 * TINY}


def test_embedding_is_stored_on_demand_alone(tmp_path: Path) -> None:
    slm_dir = made_slm(tmp_path / "slm", TINY)
    slm, file = identify_model(slm_dir, "made/slm"), saved(tmp_path, made_state(TINY))
    import_router(file, slm, slm_dir, tmp_path / "without")
    import_router(file, slm, slm_dir, tmp_path / "with", with_embedding=True)
    assert load_checkpoint(tmp_path / "without").slm_embedding is None
    token_ids, hidden_states, logits = (values.numpy() for values in made_features(TINY, 20))
    alone = Scorer(tmp_path / "with").score(token_ids, hidden_states, logits)
    np.testing.assert_array_equal(
        alone, Scorer(tmp_path / "without", slm_dir).score(token_ids, hidden_states, logits)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_file_with_the_embedding_of_its_slm_is_taken_and_of_another_refused(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    own, other = made_slm(tmp_path / "own", TINY), made_slm(tmp_path / "other", TINY, seed=2)
    embedding = load_file(own / "model.safetensors")["model.embed_tokens.weight"].to(dtype)
    file = saved(tmp_path, made_state(TINY) | {"token_embeddings.weight": embedding})
    import_router(file, identify_model(own, "own"), own, tmp_path / "out")
    foreign = identify_model(other, "other")
    with pytest.raises(PublishedRouterError, match=rf"{file}: token_embeddings.weight: .*'other' {foreign.revision}"):
        import_router(file, foreign, other, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    import_router(file, foreign, other, tmp_path / "insisted", allow_other_slm=True)
    assert load_checkpoint(tmp_path / "insisted").description.slm == foreign


def test_slm_of_another_width_is_refused_naming_both(tmp_path: Path) -> None:
    slm_dir = made_slm(tmp_path / "slm", 16)
    file = saved(tmp_path, made_state(TINY))
    with pytest.raises(PublishedRouterError, match=r"reads 12 columns .*'made/slm' has a hidden size of 16"):
        import_router(file, identify_model(slm_dir, "made/slm"), slm_dir, tmp_path / "out")


def test_slm_without_weights_is_refused_naming_its_folder(tmp_path: Path) -> None:
    slm_dir = made_slm(tmp_path / "slm", TINY)
    slm = identify_model(slm_dir, "made/slm")
    (slm_dir / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=f"{slm_dir}"):
        import_router(saved(tmp_path, made_state(TINY)), slm, slm_dir, tmp_path / "out")


def test_refused_file_leaves_a_checkpoint_that_is_there_as_it_was(tmp_path: Path) -> None:
    slm_dir = made_slm(tmp_path / "slm", TINY)
    slm = identify_model(slm_dir, "made/slm")
    import_router(saved(tmp_path, made_state(TINY)), slm, slm_dir, tmp_path / "out")
    before = (tmp_path / "out" / WEIGHTS_FILE).read_bytes()
    state = made_state(TINY, seed=3)
    state.pop("backbone.output_layer.1.bias")
    with pytest.raises(PublishedRouterError, match=r"backbone\.output_layer\.1\.bias: is missing"):
        import_router(saved(tmp_path, state), slm, slm_dir, tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS_FILE).read_bytes() == before


def test_vocabulary_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    slm_dir = made_slm(tmp_path / "slm", TINY)
    slm = dataclasses.replace(identify_model(slm_dir, "made/slm"), vocab_size=705)
    with pytest.raises(PublishedRouterError, match="704 rows of embedding"):
        import_router(saved(tmp_path, made_state(TINY)), slm, slm_dir, tmp_path / "out")
