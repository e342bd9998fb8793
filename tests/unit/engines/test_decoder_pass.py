from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from services.engines.transformers.attention import GROUPED_ATTENTION
from services.engines.transformers.decoder_pass import DecoderPass
from services.engines.transformers.forward_batch import ForwardBatch, Row, build_batch
from services.engines.transformers.kv_pool import LayerShape, PagedCache
from services.engines.transformers.loading import decoder_of
from tests.contract.tiny_models import write_tiny_llm

NUM_SLOTS = 512


def batch_of(*lens: tuple[int, int], packs: bool = True) -> ForwardBatch:
    """Rows of (tokens in all, new tokens), each on 64 slots of its own."""
    rows = [
        Row([7 * index + offset for offset in range(num_new)], 16 + 64 * index + np.arange(num_all), [num_new - 1])
        for index, (num_all, num_new) in enumerate(lens)
    ]
    return build_batch(rows, torch.float32, torch.device("cpu"), packs=packs)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(write_tiny_llm(tmp_path_factory.mktemp("llm")))
    model.set_attn_implementation(GROUPED_ATTENTION)
    return decoder_of(model)


def wanted(passes: DecoderPass, batch: ForwardBatch) -> Tensor:
    hidden = passes.run(batch).flatten(0, 1)
    return hidden if batch.output_index is None else hidden[batch.output_index]


def on_empty_pool(decoder: nn.Module) -> DecoderPass:
    shapes = [LayerShape(2, 16, 16)] * 3
    return DecoderPass(decoder, PagedCache(shapes, NUM_SLOTS, dtype=torch.float32, device=torch.device("cpu")))


# Every row's earlier tokens are run in an earlier pass.
PASSES = [
    [(9, 9), (4, 4)],
    [(10, 1)],
    [(40, 30), (16, 12), (6, 6)],
    [(41, 1), (17, 1)],
    [(42, 1)],
    [(6, 6), (6, 6)],
    [(7, 1), (7, 1)],
]


@torch.inference_mode()
def test_traced_passes_of_any_shape_give_what_untraced_ones_give(decoder: nn.Module) -> None:
    plain, traced = on_empty_pool(decoder), on_empty_pool(decoder)
    traced.trace(batch_of((3, 1)))
    traced.trace(batch_of((5, 2), (3, 2)))
    traced.trace(batch_of((5, 2), (3, 1)))
    for lens in PASSES:
        batch = batch_of(*lens)
        torch.testing.assert_close(wanted(traced, batch), wanted(plain, batch), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_packed_passes_give_what_padded_ones_give(decoder: nn.Module) -> None:
    padded, packed = on_empty_pool(decoder), on_empty_pool(decoder)
    for lens in PASSES:
        batch = batch_of(*lens)
        expected = wanted(padded, batch_of(*lens, packs=False))
        torch.testing.assert_close(wanted(packed, batch), expected, atol=1e-5, rtol=1e-5)


def test_packed_pass_has_no_padding() -> None:
    batch = batch_of((40, 30), (16, 12), (6, 6))
    assert batch.input_ids.shape == (1, 48)
    assert batch_of((40, 30), (16, 12), (6, 6), packs=False).input_ids.shape == (3, 30)


def test_rows_of_equal_length_need_no_packing() -> None:
    batch = batch_of((6, 6), (9, 6))
    assert batch.packed_index is None
    assert batch.input_ids.shape == (2, 6)


@torch.inference_mode()
def test_untraced_pass_runs_the_models_own_python(decoder: nn.Module) -> None:
    calls: list[int] = []
    handle = decoder.register_forward_hook(lambda *_args: calls.append(1))
    passes = on_empty_pool(decoder)
    passes.run(batch_of((3, 1)))
    assert len(calls) == 1
    handle.remove()


class BranchingDecoder(nn.Module):
    def forward(self, input_ids: Tensor, **_inputs: object) -> SimpleNamespace:
        hidden = input_ids[..., None].float()
        return SimpleNamespace(last_hidden_state=-hidden if hidden.sum() > 5 else hidden)


@torch.inference_mode()
def test_model_that_branches_on_its_input_is_not_traced() -> None:
    passes = on_empty_pool(BranchingDecoder())
    passes.trace(batch_of((1, 1)))
    assert float(passes.run(batch_of((9, 9)))[0, 8]) == -8.0
