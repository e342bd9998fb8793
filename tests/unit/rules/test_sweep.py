import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rules.shipped import EntropyRule, MarginRule
from services.rules.sweep import (
    SLM_ONLY_THRESHOLD,
    RuleSweep,
    SweepError,
    SweepPoint,
    SweptModel,
    parse_sweep,
    read_sweep,
    write_sweep,
)

SLM = SweptModel(model_id="small", revision="ab", vocab_size=100, hidden_size=8, tokenizer_sha256="aa" * 32)
ROWS = tuple(SweepPoint(threshold=t, llm_usage_rate=u) for t, u in ((3.0, 0.0), (2.0, 0.1), (1.0, 0.3), (0.0, 1.0)))
SWEEP = RuleSweep(rule="entropy", version="1", slm=SLM, num_tokens=10, rows=ROWS)


@pytest.mark.parametrize(
    ("usage", "threshold"), [(0.0, SLM_ONLY_THRESHOLD), (0.05, 2.5), (0.1, 2.0), (0.2, 1.5), (1.0, 0.0)]
)
def test_threshold_of_a_budget_lies_between_the_rows_though_scores_exceed_1(usage: float, threshold: float) -> None:
    assert SWEEP.threshold_for(usage) == pytest.approx(threshold)


@given(st.floats(0, 1), st.floats(0, 1))
def test_threshold_of_a_larger_budget_is_never_greater(first: float, second: float) -> None:
    less, more = sorted((first, second))
    assert SWEEP.threshold_for(less) >= SWEEP.threshold_for(more)


def test_sweep_that_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    write_sweep(SWEEP, tmp_path / "entropy.json")
    assert read_sweep(tmp_path / "entropy.json", EntropyRule(), SLM) == SWEEP
    renamed = SLM.model_copy(update={"model_id": "/elsewhere/small"})
    assert read_sweep(tmp_path / "entropy.json", EntropyRule(), renamed) == SWEEP


def test_sweep_of_another_rule_is_refused_by_name(tmp_path: Path) -> None:
    write_sweep(SWEEP, tmp_path / "mine.json")
    with pytest.raises(SweepError, match=r"mine\.json: rule: it is a sweep of entropy, not of margin"):
        read_sweep(tmp_path / "mine.json", MarginRule(), SLM)


def test_sweep_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    write_sweep(SWEEP.model_copy(update={"version": "0"}), tmp_path / "mine.json")
    with pytest.raises(SweepError, match=r"version: it is of version 0 of entropy, installed is 1"):
        read_sweep(tmp_path / "mine.json", EntropyRule(), SLM)


@pytest.mark.parametrize(
    ("field", "value"), [("revision", "cd"), ("vocab_size", 99), ("hidden_size", 9), ("tokenizer_sha256", "bb" * 32)]
)
def test_sweep_of_another_small_model_is_refused_by_name(field: str, value: object, tmp_path: Path) -> None:
    write_sweep(SWEEP, tmp_path / "mine.json")
    with pytest.raises(SweepError, match=rf"mine\.json: slm\.{field}: .*'small'"):
        read_sweep(tmp_path / "mine.json", EntropyRule(), SLM.model_copy(update={field: value}))


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in SWEEP.model_dump().items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        (_without("version"), "version: Field required"),
        (_without("slm"), "slm: Field required"),
        (SWEEP.model_dump() | {"extra": 1}, "extra: Extra inputs"),
        (SWEEP.model_dump() | {"num_tokens": "10"}, "num_tokens: .*integer"),
        (SWEEP.model_dump() | {"rows": []}, "rows: "),
        (
            SWEEP.model_dump() | {"rows": [{"threshold": float("nan"), "llm_usage_rate": 0.0}] * 2},
            "rows.0.threshold: ",
        ),
        (SWEEP.model_dump() | {"rows": [{"threshold": 1.0, "llm_usage_rate": 1.5}] * 2}, "rows.0.llm_usage_rate: "),
        (
            SWEEP.model_dump() | {"rows": [{"threshold": 1.0, "llm_usage_rate": 0.5}] * 2},
            "rows: .*thresholds have to fall",
        ),
        (SWEEP.model_dump() | {"rows": SWEEP.model_dump()["rows"][1:]}, "rows: .*begin with a usage of 0"),
    ],
)
def test_sweep_that_is_damaged_names_file_and_field(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SweepError, match=rf"(?s)mine\.json: .*{message}") as error:
        parse_sweep(path)
    assert "\n" not in str(error.value)


def test_sweep_that_is_missing_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"nowhere\.json: no such file"):
        parse_sweep(tmp_path / "nowhere.json")
