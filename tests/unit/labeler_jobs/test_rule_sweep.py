from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from evaluation.reference.pair import WEIGHTS_DIR
from labeler_jobs.rule_sweep import LabelledScores, make_sweep, score_drafts, score_labelled
from router_service.training.dataset import DatasetError
from services.engines.base import EngineOptions
from services.engines.factory import create_slm_engine
from services.rules.rule import DraftRows
from services.rules.shipped import EntropyRule, MarginRule
from services.rules.sweep import SweptModel
from tests.unit.router_service.made import made_data, made_identities, made_models, made_table, write_dataset

SLM = SweptModel(model_id="small", revision="ab", vocab_size=100, hidden_size=8, tokenizer_sha256="aa" * 32)
RULE = EntropyRule()


@given(hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(0, 5, width=32)))
def test_sweep_rows_say_what_their_thresholds_route(scores: NDArray[np.float32]) -> None:
    sweep = make_sweep(RULE, SLM, scores)
    for row in sweep.rows:
        assert row.threshold == float(np.float32(row.threshold))
        assert row.llm_usage_rate == (scores >= np.float32(row.threshold)).mean()
    assert sweep.num_tokens == len(scores)


def test_sweep_of_many_scores_has_a_row_at_each_usual_budget() -> None:
    sweep = make_sweep(RULE, SLM, np.random.default_rng(1).random(10_000, dtype=np.float32))
    for usage in (0.05, 0.1, 0.2, 0.5):
        assert 1 - sweep.threshold_for(usage) == pytest.approx(usage, abs=0.02)
        assert any(row.llm_usage_rate == pytest.approx(usage, abs=1e-3) for row in sweep.rows)


def test_sweep_with_labels_counts_recall_and_precision_on_them_and_usage_on_the_drafts() -> None:
    labelled = LabelledScores(
        np.array([0.9, 0.6, 0.4, 0.1], np.float32), divergent=np.array([True, False, True, False])
    )
    sweep = make_sweep(RULE, SLM, np.array([0.5, 0.5, 0.0, 0.0], np.float32), labelled)
    above, middle, below = sweep.rows[0], sweep.rows[1], sweep.rows[-1]
    assert (above.llm_usage_rate, above.recall) == (0.0, 0.5)
    assert (middle.threshold, middle.llm_usage_rate, middle.recall, middle.precision) == (0.5, 0.5, 0.5, 0.5)
    assert (below.recall, below.precision) == (1.0, 0.5)


def test_score_labelled_scores_every_token_and_refuses_a_dataset_of_another_small_model(tmp_path: Path) -> None:
    slm_dir, llm_dir = made_models(tmp_path)
    identities = made_identities(slm_dir, llm_dir)
    data = made_data(50, 1)
    folder = write_dataset(tmp_path / "dataset", made_table(data, identities))
    slm = SweptModel(**vars(identities["slm"]))
    scored = score_labelled(folder, MarginRule(), slm)
    expected = MarginRule().scores(DraftRows(data.top_logits.half().float().numpy(), data.token_ids.numpy()))
    np.testing.assert_array_equal(scored.scores, expected)
    np.testing.assert_array_equal(scored.divergent, data.divergent.numpy())
    with pytest.raises(DatasetError, match=r"was labelled with slm 'made-slm'.*'small' at 'ab'"):
        score_labelled(folder, RULE, SLM)


def test_score_drafts_scores_as_many_tokens_whatever_is_written_at_a_time() -> None:
    prompts = [[5, 6, 7], [8, 9], [10]]
    each = []
    answered: list[int] = []
    for max_open in (1, 3):
        engine = create_slm_engine(
            "transformers", EngineOptions(model=str(WEIGHTS_DIR / "slm"), kv_cache_tokens=4096)
        )
        scores = score_drafts(
            engine, prompts, RULE, max_new_tokens=6, max_open=max_open, on_answer=lambda: answered.append(1)
        )
        each.append(np.sort(scores))
    assert len(answered) == 6
    # Batches of other shapes differ in the last bits.
    np.testing.assert_allclose(each[0], each[1], atol=1e-4)
    assert 3 <= len(each[0]) <= 18
