"""Steps of the build that take minutes show a bar."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from evaluation.reference import build
from evaluation.reference.training.token_store import TokenStore
from router_service.training.state import EpochRecord


def test_tokenizing_shows_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    def tokenizer(texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, 2] for _ in texts]}

    assert len(TokenStore.tokenize(cast(Any, tokenizer), 30).ends) == 30
    shown = capsys.readouterr().err
    assert "tokens" in shown
    assert "30/30" in shown


def test_training_the_router_shows_a_bar_and_its_last_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*arguments: object, show_steps: Any, on_epoch: Any) -> SimpleNamespace:
        assert list(show_steps(["a", "b"], 2, 1)) == ["a", "b"]
        on_epoch(EpochRecord(1, 0.5, validation_loss=0.25, validation_auc=0.75, learning_rate=0.1))
        return SimpleNamespace(metrics={})

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(build, "build_checkpoint", train)
    build.Build(tmp_path, build.QUICK)._build_router()
    shown = " ".join(capsys.readouterr().err.split())
    assert "epoch 1 of at" in shown
    assert "2/2" in shown
    assert "loss 0.25" in shown
