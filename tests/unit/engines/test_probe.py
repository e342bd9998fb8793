from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from services.engines.base import ModelLoadError
from services.engines.transformers import probe
from services.engines.transformers.forward_batch import Row
from services.engines.transformers.loading import decoder_of
from services.engines.transformers.probe import make_runner
from tests.contract.families import WINDOW, family_config
from tests.contract.tiny_models import write_model, write_tiny_llm

ROWS = [Row([5, 6, 7], np.arange(16, 19), [2]), Row([8], np.arange(32, 33), [0])]


def load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_llm(tmp_path)


def run_untraced(model: PreTrainedModel) -> tuple[list[tuple[int, ...]], torch.Tensor]:
    """Runs a pass over `ROWS`; returns the shapes of `input_ids` that the decoder saw, and the logits."""
    runner = make_runner(model, 8)
    runner.untrace()
    shapes: list[tuple[int, ...]] = []
    decoder_of(model).register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes, runner.run(ROWS)[1]


@pytest.mark.parametrize("error", [TypeError, RuntimeError])
def test_model_that_takes_no_further_argument_runs_padded_and_gives_the_same(
    folder: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(folder)
    decoder = decoder_of(model)
    forward = decoder.forward

    @functools.wraps(forward)
    def strict(*args: object, **kwargs: object) -> object:
        if "packed_index" in kwargs:
            raise error("packed_index")
        return forward(*args, **kwargs)

    monkeypatch.setattr(decoder, "forward", strict)
    shapes, logits = run_untraced(model)
    packed_shapes, packed_logits = run_untraced(load(folder))
    assert (shapes, packed_shapes) == ([(2, 3)], [(1, 4)])
    torch.testing.assert_close(logits, packed_logits, atol=1e-5, rtol=1e-5)


@pytest.fixture
def sliding_model(tmp_path: Path) -> PreTrainedModel:
    return load(write_model(tmp_path, family_config("gemma3"), seed=1))


def test_window_that_is_narrowed_for_the_trial_is_the_models_own_afterwards(sliding_model: PreTrainedModel) -> None:
    make_runner(sliding_model, 8)
    assert decoder_of(sliding_model).config.sliding_window == WINDOW


def test_model_that_attends_to_another_window_is_refused(
    sliding_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_narrowed", lambda _config, _window: contextlib.nullcontext())
    with pytest.raises(ModelLoadError, match="Gemma3ForCausalLM gives other logits on a paged cache"):
        make_runner(sliding_model, 8)


def test_layers_that_differ_in_their_windows_are_refused(sliding_model: PreTrainedModel) -> None:
    config = decoder_of(sliding_model).config
    config.per_layer_config = {0: {"sliding_window": 3}}
    with pytest.raises(ModelLoadError, match="differ in their windows"):
        make_runner(sliding_model, 8)
