"""`trivium calibrate --rule`, on the shipped small model."""

from pathlib import Path

import pytest

from services.cli.__main__ import app
from services.cli.errors import CliError
from services.rules.sweep import parse_sweep


def calibrate(*arguments: str) -> None:
    app(("calibrate", *arguments), standalone_mode=False)


def test_calibrate_rule_writes_a_sweep_of_the_small_models_own_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweeps" / "entropy.json"
    arguments = ("--rule", "entropy", "--limit", "3", "--max-new-tokens", "20", "--target-llm-usage", "0.2")
    calibrate(*arguments, "--out", str(path))
    sweep = parse_sweep(path)
    assert (sweep.rule, sweep.slm.model_id) == ("entropy", "trivium-reference-slm")
    assert 3 <= sweep.num_tokens <= 60
    printed = capsys.readouterr()
    assert "LLM usage %" in printed.out
    assert "recall" not in printed.out
    assert f"{sweep.threshold_for(0.2):.6g}" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "entropie"], "--rule: no rule 'entropie' is installed; there are entropy, llm"),
        (["--rule", "lossless"], "--rule: lossless has no score of the small model to sweep; entropy, margin have"),
        (["--rule", "random"], "--rule: random needs no sweep: its rate is the LLM usage"),
        (["--rule", "entropy", "--pair", "refrence"], "no pair 'refrence'"),
        (["--rule", "entropy", "--source", "nowhere"], "source: 'nowhere' is unknown"),
        (["--rule", "entropy", "--validation", "nowhere"], "nowhere: no shard"),
        (["--rule", "entropy", "my-router"], "--rule: entropy has no checkpoint, but my-router is given"),
        (["--rule", "entropy", "--target-recall", "0.9"], "--rule: goes with --target-llm-usage alone"),
        (["--rule", "entropy", "--decode-on", "h:1"], "--rule: goes with --target-llm-usage alone"),
        ([], "give a router's CHECKPOINT and --validation, or a rule with --rule"),
    ],
)
def test_calibrate_rule_bad_input_is_one_error_and_writes_nothing(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    path = tmp_path / "sweep.json"
    with pytest.raises(CliError, match=message):
        calibrate(*arguments, "--out", str(path))
    assert not path.exists()
