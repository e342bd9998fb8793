import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from evaluation.records.run_records import RECORDS_SCHEMA, Run, RunRecords
from evaluation.suites.registry import SUITE_NAMES, open_own
from services.cli import __main__ as command_line
from services.cli.evaluate.options import SUITES
from services.cli.evaluate.run import summary
from tests.unit.cli.fakes import FakeOrchestrator, serving_orchestrator

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
    assert "|".join((*SUITE_NAMES, "FILE")) == SUITES


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
    # Looked at later than the orchestrator: the data may take minutes.
    data.write_text('{"problem": "1+1?"}\n')
    run_command(
        monkeypatch, "--suite", "aime", "--data", str(data), "--address", "127.0.0.1:1", "--out", str(tmp_path)
    )
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: orchestrator 127.0.0.1:1: UNAVAILABLE")


def test_run_wrong_data_is_one_line_with_file_field_and_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"problem": "1+1?"}\n')
    with serving_orchestrator(FakeOrchestrator()) as address:
        run_command(monkeypatch, "--suite", "aime", "--data", str(data), "--out", str(tmp_path), "--address", address)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: {data}, row 1: field 'answer or Answer' is missing"


@pytest.mark.parametrize(
    ("name", "content", "more", "told"),
    [
        ("mine.jsonl", '{"question": "1+1?", "answer": 2}', [], "row 1: field 'grader' is missing"),
        ("mine.jsonl", '{"question": "q", "answer": 2, "grader": "x"}', [], "row 1: field 'grader' is 'x', which is"),
        ("mine.csv", "question,answer\n1+1?,\n", ["--grader", "number"], "row 1 (line 2): field 'answer' expected"),
        ("mine.csv", "question;answer\n1+1?;2\n", [], "columns are parted by ';'"),
        ("mine.parquet", "PAR1", [], "not a readable Parquet file"),
        ("mine.txt", "1+1?", [], "expected one of .jsonl, .json, .csv, .parquet"),
    ],
)
def test_run_own_file_that_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    name: str,
    content: str,
    more: list[str],
    told: str,
) -> None:
    data = tmp_path / name
    data.write_text(content)
    with serving_orchestrator(FakeOrchestrator()) as address:
        run_command(monkeypatch, "--suite", str(data), "--out", str(tmp_path), "--address", address, *more)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {data}")
    assert told in last


def test_run_own_file_or_grader_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with serving_orchestrator(FakeOrchestrator()) as address:
        run_command(monkeypatch, "--suite", str(tmp_path / "mine.csv"), "--address", address)
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {tmp_path / 'mine.csv'}: no such file or folder"
    with serving_orchestrator(FakeOrchestrator()) as address:
        run_command(monkeypatch, "--suite", f"{tmp_path}/", "--address", address)
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {tmp_path}: is a folder; name one file of questions"
    run_command(monkeypatch, "--suite", "mine.csv", "--grader", "numbr")
    assert "error: --grader: 'numbr' is none of choice, number" in capsys.readouterr().err


def test_run_help_teaches_own_questions_by_rows_that_are_read(tmp_path: Path) -> None:
    shown = CliRunner().invoke(command_line.app, ["evaluate", "run", "--help"], env={"COLUMNS": "200"}).output
    rows = [line.strip(" │") for line in shown.splitlines() if line.strip(" │").startswith('{"')]
    assert len(rows) == 4
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    suite = open_own(str(tmp_path / "mine.jsonl"), allow_unisolated=True)
    water, prime, peru, program = suite.load("", None, 0)
    assert suite.grade(water, "\\boxed{100}").correct
    assert suite.grade(prime, "So C.").correct
    assert suite.grade(peru, "It is Lima.").correct
    assert suite.grade(program, "```python\nprint(sum(map(int, input().split())))\n```").correct
    suite.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--suite", "mmlu"],
        ["--suite", "aime", "--threshold", "0.5", "--target-llm-usage", "0.1"],
        ["--suite", "aime", "--target-llm-usage", "1.5"],
        ["--suite", "aime", "--threshold", "0.5", "--target-avg-params-b", "3"],
        ["--suite", "aime", "--target-llm-usage", "0.1", "--target-avg-params-b", "3"],
        ["--suite", "aime", "--target-avg-params-b", "-1"],
        ["--suite", "aime", "--grader", "number"],
        ["--suite", "gpqa", "--verifier", "http://127.0.0.1:1"],
        ["--suite", "questions.csv", "--data", "more.csv"],
        ["--suite", "aime", "--first-day", "2024-10-01"],
        ["--suite", "questions.csv", "--last-day", "2024-10-01"],
        ["--suite", "livecodebench", "--first-day", "October"],
        ["--suite", "livecodebench", "--first-day", "2024-10-02", "--last-day", "2024-10-01"],
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
