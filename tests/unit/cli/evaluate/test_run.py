import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from evaluation.records.run_records import RECORDS_SCHEMA, Run, RunRecords
from evaluation.suites.registry import SUITE_NAMES
from services.cli import __main__ as command_line
from services.cli.evaluate.options import SuiteName
from services.cli.evaluate.run import summary

ROW = {
    "question_id": "1", "domain": "math", "correct": True, "finished": True, "num_prompt_tokens": 5,
    "num_tokens": 100, "llm_positions": [3, 7], "think_len": None, "thought_starts": [0], "model": "routed",
    "latency_s": 1.5,
}  # fmt: skip


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["trivium", "evaluate", "run", *arguments])
    with pytest.raises(SystemExit) as ending:
        command_line.main()
    assert ending.value.code == 1


def test_suite_names_are_those_of_the_registry() -> None:
    assert tuple(name.value for name in SuiteName) == SUITE_NAMES


def test_summary_says_how_many_are_right_and_who_wrote() -> None:
    table = pa.Table.from_pylist(
        [ROW, {**ROW, "correct": False, "finished": False, "latency_s": 2.5}], RECORDS_SCHEMA
    )
    run = Run("aime-r2r", "aime", "r2r", {}, threshold=0.25)
    assert summary(RunRecords(run, table)) == (
        "aime-r2r: 50.0% of 2 correct · 100 tokens each · 2.0% by the LLM (threshold 0.25) · "
        "1 cut off at the token limit · 2.5 s in the median"
    )


def test_run_no_orchestrator_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"problem": "1+1?", "answer": 2}\n')
    run_command(
        monkeypatch, "--suite", "aime", "--data", str(data), "--address", "127.0.0.1:1", "--out", str(tmp_path)
    )
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: orchestrator 127.0.0.1:1: UNAVAILABLE")


def test_run_wrong_data_is_one_line_with_file_field_and_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"problem": "1+1?"}\n')
    run_command(monkeypatch, "--suite", "aime", "--data", str(data), "--out", str(tmp_path))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: {data}, row 1: field 'answer or Answer' is missing"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--suite", "mmlu"],
        ["--suite", "aime", "--threshold", "0.5", "--target-llm-usage", "0.1"],
        ["--suite", "aime", "--target-llm-usage", "1.5"],
        ["--suite", "aime", "--run-id", "../elsewhere"],
        ["--suite", "aime", "--limit", "0"],
    ],
    ids=" ".join,
)
def test_run_wrong_option_is_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(command_line.app, ["evaluate", "run", *arguments])
    assert result.exit_code == 2


def test_evaluate_run_does_not_import_torch() -> None:
    script = (
        "import sys; import services.cli.evaluate.run, evaluation.suites.registry; "
        "sys.stdout.write(','.join({'torch', 'transformers', 'datasets', 'sympy', 'matplotlib'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout == ""
