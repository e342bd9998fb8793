"""`trivium evaluate run` against the running pair: killed, gone on with, and compared with a run that wasn't."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evaluation.live.client import Asking
from evaluation.live.run import LiveRun, run_live
from evaluation.records.run_records import RunRecords, load_records
from evaluation.reference.corpus.samples import draw_sample
from evaluation.suites.aime import AimeSuite
from evaluation.suites.reference import ReferenceSuite
from evaluation.suites.suite import Question, Suite
from tests.integration.harness.completions import FIRST_HELD_OUT
from tests.integration.harness.pair import RunningPair, front_info

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NUM_QUESTIONS = 40
CONCURRENCY = 4
NUM_BEFORE_KILL = 6
MAX_NEW_TOKENS = 48
START_TIMEOUT_S = 240.0


class QuickReferenceSuite(ReferenceSuite):
    """Doesn't look for queries in the training range: nothing is measured here, and looking takes a while."""

    def load(self, source: str, limit: int | None, seed: int) -> list[Question[int]]:
        samples = [draw_sample(FIRST_HELD_OUT + index) for index in range(limit or 12)]
        return [Question(str(sample.index), sample.domain, sample.query, sample.answer) for sample in samples]


def problems(path: Path) -> Path:
    """The suite's queries in the schema of AIME, whose prompt the pair doesn't know: right answers are no matter."""
    samples = [draw_sample(FIRST_HELD_OUT + index) for index in range(NUM_QUESTIONS)]
    rows = [{"id": sample.index, "problem": sample.query, "answer": str(sample.answer)} for sample in samples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(pair: RunningPair, out: Path, data: Path) -> list[str]:
    options = {
        "--suite": "aime", "--data": str(data), "--address": pair.front.address, "--out": str(out),
        "--run-id": "killed", "--concurrency": str(CONCURRENCY), "--max-new-tokens": str(MAX_NEW_TOKENS),
    }  # fmt: skip
    given = [part for option in options.items() for part in option]
    return [sys.executable, "-m", "services.cli", "evaluate", "run", *given]


def kill_after(arguments: list[str], journal: Path, num_rows: int) -> bytes:
    """Starts a run, kills it once its journal holds so many rows; returns the journal."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while not journal.exists() or journal.read_bytes().count(b"\n") <= num_rows:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return journal.read_bytes()


def run_to_end(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False)


async def run_here(pair: RunningPair, suite: Suite[Any], out: Path, asking: Asking, **options: Any) -> RunRecords:
    defaults = {"source": "", "seed": 0, "limit": None, "concurrency": CONCURRENCY}
    live = LiveRun(suite, asking=asking, address=pair.front.address, results=out, **{**defaults, **options})
    _, records = await asyncio.to_thread(run_live, live, lambda progress: None)
    suite.close()
    return records


async def num_requests(pair: RunningPair) -> int:
    return (await front_info(pair.front)).load.num_requests_finished


async def test_run_killed_twice_goes_on_and_equals_an_uninterrupted_one(pair: RunningPair, tmp_path: Path) -> None:
    data = problems(tmp_path / "problems.jsonl")
    journal = tmp_path / "runs" / "killed.jsonl"
    arguments = command(pair, tmp_path, data)
    before = await num_requests(pair)
    kept = b""
    for turn in (1, 2):
        left = kill_after(arguments, journal, turn * NUM_BEFORE_KILL)
        assert left.startswith(kept[: kept.rfind(b"\n") + 1])
        kept = left
    ended = run_to_end(arguments)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("killed: ")
    assert f"of {NUM_QUESTIONS} correct" in ended.stdout
    # No question twice; what was in flight at a kill may have been finished by the orchestrator unseen.
    rows = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert len({row["question_id"] for row in rows}) == len(rows) == NUM_QUESTIONS
    assert NUM_QUESTIONS <= await num_requests(pair) - before <= NUM_QUESTIONS + 2 * CONCURRENCY

    whole = await run_here(
        pair, AimeSuite(), tmp_path, Asking(max_new_tokens=MAX_NEW_TOKENS), source=str(data), run_id="whole"
    )
    gone_on = load_records(tmp_path / "runs" / "killed.parquet")
    assert gone_on.table.drop_columns("latency_s") == whole.table.drop_columns("latency_s")
    assert not any(row["finished"] for row in whole.table.to_pylist() if row["num_tokens"] == MAX_NEW_TOKENS)


async def test_run_of_the_reference_suite_is_graded_and_taken_apart(pair: RunningPair, tmp_path: Path) -> None:
    records = await run_here(pair, QuickReferenceSuite(), tmp_path, Asking())
    rows = records.table.to_pylist()
    assert sum(row["correct"] for row in rows) >= 10
    for row in rows:
        assert row["finished"]
        assert 0 < row["think_len"] < row["num_tokens"]
        assert row["thought_starts"][0] == 0
        assert row["thought_starts"][-1] < row["think_len"]
        assert row["llm_positions"] == sorted(set(row["llm_positions"]))
    assert 0 < sum(len(row["llm_positions"]) for row in rows) < 0.3 * sum(row["num_tokens"] for row in rows)


async def test_run_with_a_target_records_the_threshold_that_was_found_for_it(
    pair: RunningPair, tmp_path: Path
) -> None:
    run = (await run_here(pair, QuickReferenceSuite(), tmp_path, Asking(target_llm_usage=0.2), limit=2)).run
    assert run.target_llm_usage == 0.2
    assert run.threshold is not None
    default = (await front_info(pair.front)).router.default_threshold
    assert 0 < run.threshold < default


async def test_run_of_own_questions_is_graded_row_by_row(pair: RunningPair, tmp_path: Path) -> None:
    samples = [draw_sample(FIRST_HELD_OUT + index) for index in range(12)]
    questions = tmp_path / "mine.csv"
    with questions.open("w", encoding="utf-8-sig", newline="") as lines:
        cells = csv.writer(lines)
        cells.writerow(["prompt", "answer", "grader", "domain"])
        for number, sample in enumerate(samples):
            # Half of them by a pattern; the last has no right answer.
            last = number == len(samples) - 1
            answer, grader = ("no such text", "exact") if last else (str(sample.answer), "number")
            if number % 2 and not last:
                answer, grader = rf"answer is {sample.answer}\b", "regex"
            cells.writerow([sample.query, answer, grader, sample.domain])
    options = [
        "--suite",
        str(questions),
        "--address",
        pair.front.address,
        "--out",
        str(tmp_path),
        "--concurrency",
        "4",
    ]
    arguments = [sys.executable, "-m", "services.cli", "evaluate", "run", *options]
    ended = run_to_end(arguments)
    assert ended.returncode == 0, ended.stderr
    rows = load_records(tmp_path / "runs" / "mine-r2r.parquet").table.to_pylist()
    assert [row["question_id"] for row in rows] == [f"mine-{number}" for number in range(1, 13)]
    assert sum(row["correct"] for row in rows) >= 9
    assert not rows[-1]["correct"]
    # A corrected answer is never mixed with grades of the old one.
    questions.write_text(questions.read_text(encoding="utf-8-sig").replace("no such text", "another"))
    again = run_to_end(arguments)
    assert again.returncode == 1
    assert "question 'mine-12' was asked in other words, or graded by another answer, before" in again.stderr


async def test_run_with_average_parameters_finds_a_threshold_for_them(pair: RunningPair, tmp_path: Path) -> None:
    info = await front_info(pair.front)
    billions = (info.slm.num_parameters + info.router.num_parameters + 0.2 * info.llm.num_parameters) / 1e9
    by_usage = await run_here(pair, QuickReferenceSuite(), tmp_path, Asking(target_llm_usage=0.2), limit=2)
    by_size = await run_here(pair, QuickReferenceSuite(), tmp_path, Asking(target_avg_params_b=billions), limit=2)
    assert by_size.run.threshold == pytest.approx(by_usage.run.threshold, rel=1e-3)
    assert by_size.run.run_id != by_usage.run.run_id
