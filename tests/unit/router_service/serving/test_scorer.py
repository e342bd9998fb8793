from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_forward_hook

from router_service.checkpoint import RouterCheckpoint, save_checkpoint
from router_service.checkpoint_files import DESCRIPTION_FILE, WEIGHTS_FILE, CheckpointError
from router_service.description import ModelIdentity, RouterDescription, SweepRow, read_description, write_description
from router_service.model import Router, RouterConfig
from router_service.serving.scorer import Scorer
from services.common.weights import digest_weights

SLM = ModelIdentity(model_id="slm", revision="r", vocab_size=30, hidden_size=8, tokenizer_sha256="ab")
SWEEP = (SweepRow(0.7, 0.1, 0.5, 0.6, 0.2), SweepRow(0.3, 0.2, 0.8, 0.4, 0.3))


def _save(folder: Path, embedding: torch.Tensor | None) -> Router:
    torch.manual_seed(0)
    config = RouterConfig(slm_hidden_size=8, num_top_logits=10, hidden_size=16, num_blocks=2, expansion=2)
    router = Router(config).eval()
    description = RouterDescription(config=config, slm=SLM, llm=SLM, threshold=0.3, sweep=SWEEP)
    save_checkpoint(RouterCheckpoint(router, description, embedding), folder)
    return router


def _embedding(num_rows: int = 30) -> torch.Tensor:
    return torch.randn(num_rows, 8, generator=torch.Generator().manual_seed(1))


def _rows(num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return (
        rng.integers(0, 30, num_rows),
        rng.random((num_rows, 8), np.float32),
        rng.random((num_rows, 10), np.float32),
    )


def test_score_equals_the_sigmoid_of_the_router(tmp_path: Path) -> None:
    router = _save(tmp_path, _embedding())
    token_ids, hidden_states, top_logits = _rows(7)
    scores = Scorer(tmp_path).score(token_ids, hidden_states, top_logits)
    with torch.no_grad():
        logits = router(torch.tensor(hidden_states), torch.tensor(top_logits), _embedding()[torch.tensor(token_ids)])
    np.testing.assert_array_equal(scores, torch.sigmoid(logits).numpy())
    assert scores.dtype == np.float32
    assert scores.shape == (7,)


def test_score_row_doesnt_depend_on_the_others(tmp_path: Path) -> None:
    _save(tmp_path, _embedding())
    scorer = Scorer(tmp_path)
    token_ids, hidden_states, top_logits = _rows(33)
    together = scorer.score(token_ids, hidden_states, top_logits)
    rows = [slice(row, row + 1) for row in range(33)]
    alone = [scorer.score(token_ids[row], hidden_states[row], top_logits[row])[0] for row in rows]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(set(together.round(6))) == 33


@pytest.mark.parametrize("huge", [3e38, -3e38])
def test_score_of_a_row_that_overflows_asks_the_llm_and_leaves_the_others_alone(tmp_path: Path, huge: float) -> None:
    _save(tmp_path, _embedding())
    scorer = Scorer(tmp_path)
    token_ids, hidden_states, top_logits = _rows(9)
    wanted = scorer.score(token_ids, hidden_states, top_logits)
    hidden_states[3], top_logits[5] = huge, huge
    scores = scorer.score(token_ids, hidden_states, top_logits)
    assert scores[[3, 5]].tolist() == [1.0, 1.0]
    others = [row for row in range(9) if row not in (3, 5)]
    np.testing.assert_allclose(scores[others], wanted[others], rtol=1e-5)


@pytest.mark.parametrize("huge", [1e30, 1e38, 3e38, np.finfo(np.float32).max])
def test_score_of_any_finite_features_is_a_probability(tmp_path: Path, huge: float) -> None:
    _save(tmp_path, _embedding())
    rng = np.random.default_rng(0)
    token_ids, _, _ = _rows(200)
    hidden_states = (rng.choice([-1.0, 0.0, 1.0], (200, 8)) * huge).astype(np.float32)
    top_logits = (rng.choice([-1.0, 0.0, 1.0], (200, 10)) * huge).astype(np.float32)
    scores = Scorer(tmp_path).score(token_ids, hidden_states, top_logits)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_embedding_missing_in_the_checkpoint_is_read_from_the_slm(tmp_path: Path) -> None:
    _save(tmp_path / "with", _embedding())
    _save(tmp_path / "without", None)
    (tmp_path / "slm").mkdir()
    # Padded beyond the vocabulary, as models often are.
    padded = torch.cat([_embedding(), torch.full((2, 8), 9.0)])
    save_file({"model.embed_tokens.weight": padded}, tmp_path / "slm" / "model.safetensors")
    scores = Scorer(tmp_path / "without", tmp_path / "slm").score(*_rows(5))
    np.testing.assert_array_equal(scores, Scorer(tmp_path / "with").score(*_rows(5)))


def test_embedding_missing_everywhere_names_the_setting(tmp_path: Path) -> None:
    _save(tmp_path, None)
    with pytest.raises(CheckpointError, match="--slm-model"):
        Scorer(tmp_path)


def test_embedding_of_another_slm_is_refused_naming_both_shapes(tmp_path: Path) -> None:
    _save(tmp_path / "router", None)
    (tmp_path / "slm").mkdir()
    save_file({"model.embed_tokens.weight": _embedding(20)}, tmp_path / "slm" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"\(20, 8\).*\(30, 8\)"):
        Scorer(tmp_path / "router", tmp_path / "slm")


def test_slm_of_other_weights_is_refused_naming_both_unless_allowed(tmp_path: Path) -> None:
    _save(tmp_path / "router", None)
    (tmp_path / "slm").mkdir()
    save_file({"model.embed_tokens.weight": _embedding()}, tmp_path / "slm" / "model.safetensors")
    description = read_description(tmp_path / "router" / DESCRIPTION_FILE)
    found = digest_weights(tmp_path / "slm")
    for revision, is_refused in ((found, False), ("11" * 8, True)):
        slm = dataclasses.replace(SLM, revision=revision)
        write_description(dataclasses.replace(description, slm=slm), tmp_path / "router" / DESCRIPTION_FILE)
        if is_refused:
            with pytest.raises(CheckpointError, match=rf"{found}; .*router belongs to {revision} of 'slm'"):
                Scorer(tmp_path / "router", tmp_path / "slm")
        assert Scorer(tmp_path / "router", tmp_path / "slm", allow_other_slm=is_refused).info.slm_revision == revision


def test_damaged_weights_header_is_refused_naming_the_file(tmp_path: Path) -> None:
    _save(tmp_path, _embedding())
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        Scorer(tmp_path)


def test_info_describes_checkpoint_and_lists_thresholds_ascending(tmp_path: Path) -> None:
    router = _save(tmp_path, _embedding())
    info = Scorer(tmp_path).info
    assert (info.hidden_size, info.vocab_size, info.slm_model_id, info.tokenizer_sha256) == (8, 30, "slm", "ab")
    assert (info.num_parameters, len(info.weights_sha256)) == (router.num_parameters, 64)
    assert [round(point.threshold, 3) for point in info.threshold_table] == [0.3, 0.7]
    assert info.default_threshold == pytest.approx(0.3)


def test_warm_up_runs_a_forward(tmp_path: Path) -> None:
    _save(tmp_path, _embedding())
    scorer = Scorer(tmp_path)
    num_rows: list[int] = []

    def note(module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        if isinstance(module, Router):
            num_rows.append(len(output))

    with register_module_forward_hook(note):
        scorer.warm_up(3)
    assert num_rows == [3]
