from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.reference.training.muon import Muon, orthogonalise
from evaluation.reference.training.token_store import IGNORED, TokenStore
from evaluation.reference.training.tokenizer import train_tokenizer
from evaluation.reference.training.train_lm import TrainConfig, Trainer, learning_rate_scale

STORE = TokenStore(
    token_ids=np.arange(30, dtype=np.int16), ends=np.array([10, 15, 30]), prompt_lens=np.array([4, 2, 6])
)


def test_orthogonalise_brings_singular_values_near_one() -> None:
    for shape in ((20, 50), (50, 20)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert 0.5 < float(values.min()) <= float(values.max()) < 1.4


def test_muon_moves_a_matrix_towards_its_target() -> None:
    torch.manual_seed(0)
    matrix, target = torch.nn.Parameter(torch.zeros(8, 8)), torch.randn(8, 8)
    optimizer = Muon([matrix], lr=0.05)
    losses = []
    for _ in range(60):
        loss = (matrix - target).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4


def test_batches_label_the_response_alone() -> None:
    token_ids, labels = next(STORE.batches(batch_size=3, pad_token_id=0, seed=0))
    for row in range(3):
        first = int(token_ids[row, 0])
        index = [0, 10, 15].index(first)
        end, prompt_len = int(STORE.ends[index]), int(STORE.prompt_lens[index])
        counted = labels[row][labels[row] != IGNORED].tolist()
        assert counted == list(range(first + prompt_len, end))
        where = (labels[row] != IGNORED).nonzero().flatten()
        assert (token_ids[row][where] + 1).tolist() == counted


def test_batches_same_seed_gives_the_same_order() -> None:
    first, second = (STORE.batches(batch_size=1, pad_token_id=0, seed=5) for _ in range(2))
    for _ in range(6):
        assert torch.equal(next(first)[0], next(second)[0])


def test_token_store_survives_a_round_trip(tmp_path: Path) -> None:
    STORE.save(tmp_path / "tokens.npz")
    loaded = TokenStore.load(tmp_path / "tokens.npz")
    assert np.array_equal(loaded.token_ids, STORE.token_ids)
    assert np.array_equal(loaded.prompt_lens, STORE.prompt_lens)


@pytest.mark.parametrize(
    ("progress", "step", "scale"),
    [(0.0, 0, 0.02), (0.1, 500, 1.0), (0.4, 500, 1.0), (0.7, 900, 0.5), (1.0, 999, 0.0)],
)
def test_learning_rate_warms_up_holds_and_falls(progress: float, step: int, scale: float) -> None:
    assert learning_rate_scale(progress, step) == pytest.approx(scale)


def test_trainer_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    tokenizer = train_tokenizer()
    store = TokenStore.tokenize(tokenizer, 30)
    config = TrainConfig("slm", num_steps=2, batch_size=4)
    Trainer(config, tokenizer, tmp_path).run(store)
    resumed = Trainer(replace(config, num_steps=3), tokenizer, tmp_path)
    assert resumed.step == 2
    resumed.run(store)
    assert Trainer(config, tokenizer, tmp_path).step == 3
    assert (tmp_path / "model.safetensors").exists()


def test_trainer_cut_short_and_resumed_keeps_weights_and_optimizer_state(tmp_path: Path) -> None:
    tokenizer = train_tokenizer()
    config = TrainConfig("slm", num_steps=2, batch_size=4)
    first = Trainer(config, tokenizer, tmp_path)
    first.run(TokenStore.tokenize(tokenizer, 30))
    resumed = Trainer(config, tokenizer, tmp_path)
    pairs = zip(first.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(written, read) for written, read in pairs)
    for mine, theirs in zip(first.optimizers, resumed.optimizers, strict=True):
        kept, loaded = mine.state_dict()["state"], theirs.state_dict()["state"]
        assert kept.keys() == loaded.keys()
        assert all(torch.equal(kept[at][name], loaded[at][name]) for at in kept for name in kept[at])
