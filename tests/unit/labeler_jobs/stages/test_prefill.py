from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch

from labeler_jobs.models.huggingface import output_logits
from labeler_jobs.stages import prefill as stage
from labeler_jobs.stages.prefill import Answered, FeatureError, check_head, prefill, prefill_responses
from labeler_jobs.stages.schemas import prefill_schema
from services.engines.base import ModelLoadError
from tests.unit.labeler_jobs.tiny import make_model

ANSWERED = [
    Answered("a", [2, 3, 4], [5, 6, 7, 1]),
    Answered("b", [5], [8, 9]),
    Answered("c", [7, 8], [2, 3, 4, 5, 6]),
]


def run(answered: Sequence[Answered], batch_tokens: int = 64) -> pa.Table:
    return pa.Table.from_batches(
        list(prefill(make_model(seed=2), answered, 4, batch_tokens, lambda num_tokens: None))
    )


def test_prefill_has_what_the_slm_predicts_at_every_position() -> None:
    slm = make_model(seed=2)
    rows = run(ANSWERED).to_pylist()
    assert [(row["query_id"], row["position"]) for row in rows] == [
        (item.query_id, position) for item in ANSWERED for position in range(len(item.response))
    ]
    by_id = {item.query_id: item for item in ANSWERED}
    for row in rows:
        item = by_id[row["query_id"]]
        prefix = torch.tensor([[*item.prompt, *item.response[: row["position"]]]])
        with torch.inference_mode():
            output = slm(prefix, output_hidden_states=True)
        assert row["llm_token_id"] == item.response[row["position"]]
        assert row["slm_token_id"] == int(output.logits[0, -1].argmax())
        assert row["different"] == (row["slm_token_id"] != row["llm_token_id"])
        hidden_state, top_logits = output.hidden_states[-1][0, -1], output.logits[0, -1].topk(4).values
        np.testing.assert_allclose(row["hidden_state"], hidden_state.numpy(), rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(row["top_logits"], top_logits.numpy(), rtol=2e-3, atol=1e-4)


def test_prefill_batch_size_and_row_groups_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    together = run(ANSWERED)
    monkeypatch.setattr(stage, "_GROUP_TOKENS", 1)
    alone = run(ANSWERED, batch_tokens=1)
    assert len(alone["position"].chunks) == len(ANSWERED)
    for name in ("query_id", "position", "llm_token_id", "slm_token_id", "different"):
        assert alone[name].to_pylist() == together[name].to_pylist()


def test_prefill_of_no_responses_has_no_rows() -> None:
    assert list(prefill(make_model(seed=2), [], 4, 64, lambda num_tokens: None)) == []


def test_prefill_pads_top_logits_of_a_small_vocabulary() -> None:
    [result] = prefill_responses(make_model(seed=2), [Answered("a", [2], [3])], 100, 64)
    assert result.top_logits.shape == (1, 100)
    assert torch.isfinite(result.top_logits).all()


def test_feature_beyond_half_precision_is_named() -> None:
    slm = make_model(seed=2)
    with torch.no_grad():
        slm.model.norm.weight.mul_(1e6)
    message = r"hidden_state: query 'b', position 0: .* can't be stored in half precision"
    with pytest.raises(FeatureError, match=message):
        list(prefill(slm, ANSWERED, 4, 64, lambda num_tokens: None))


def test_token_that_the_slm_does_not_know_is_named() -> None:
    with pytest.raises(FeatureError, match=r"llm_token_id: query 'x', position 1: .* of 10 holds no token 10"):
        run([Answered("x", [2], [3, 10])])


def test_head_whose_logits_are_changed_afterwards_is_refused() -> None:
    slm = make_model(seed=2)
    check_head(slm)
    slm.lm_head.register_forward_hook(lambda _head, _args, logits: logits)
    check_head(slm)
    slm.register_forward_hook(lambda _model, _args, output: output.__class__(logits=output.logits * 2))
    with pytest.raises(ModelLoadError, match="Qwen2ForCausalLM changes its logits"):
        check_head(slm)


def test_schema_is_that_of_the_shards() -> None:
    assert run(ANSWERED).schema == prefill_schema(16, 4)
    assert output_logits(make_model(seed=2), torch.zeros(1, 16)).shape == (1, 10)
