"""Runs a suite against a live orchestrator: asks with bounded concurrency, grades, and keeps what is finished.

Beside the run's records lies its journal, `runs/<run_id>.jsonl`: every finished question with its response. A run
that was stopped, killed or refused goes on where it was; no finished question is asked again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from trivium.v1 import orchestrator_pb2 as pb

from evaluation.graders.grade import Grade
from evaluation.live.client import TIMEOUT_S, Asking, LiveError, ask
from evaluation.live.journal import Journal, JournalError
from evaluation.records.response_shape import shape_of
from evaluation.records.results_files import RUNS_FOLDER
from evaluation.records.run_records import RECORDS_SCHEMA, Run, RunRecords, save_records
from evaluation.suites.suite import Question, Suite
from services.client import AsyncClient, CallFailed, Completion

_KEY = "question_id"
_RETRY_S = 60.0


@dataclass(frozen=True)
class LiveRun:
    """What is run, against what.

    Attributes:
        suite: Where questions come from, and who grades.
        source: The suite's data, as in `Suite.load`.
        seed: The suite's seed.
        limit: First questions only; None asks all. A run may go on with another limit.
        asking: How questions are asked.
        address: The orchestrator, HOST:PORT.
        concurrency: Questions at a time.
        results: Folder of results; records and journal go to its `runs`.
        run_id: Name of both; empty takes one from suite, method and threshold.
        command: Makes this run again.
        commit: Git commit of the code, empty if unknown.
        client_options: Further arguments of `AsyncClient`, such as its key.
    """

    suite: Suite[Any]
    source: str
    seed: int
    limit: int | None
    asking: Asking
    address: str
    concurrency: int
    results: Path
    run_id: str = ""
    command: str = ""
    commit: str = ""
    client_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """Who answers: "llm" or "slm" alone, "r2r", or the name of another rule than the router's."""
        threshold, rule = self.asking.threshold, self.asking.rule_name
        if rule is not None and rule != "router":
            return rule
        if threshold is None:
            return "r2r"
        return "llm" if threshold == 0 else "slm" if threshold > 1 else "r2r"

    @property
    def name(self) -> str:
        """The run's id."""
        if self.run_id:
            return self.run_id
        parts = [self.suite.name, self.method]
        if self.asking.rule is not None and ":" in self.asking.rule:
            parts.append(self.asking.rule.partition(":")[2].replace(",", "-"))
        if self.method not in ("slm", "llm") and self.asking.threshold is not None:
            parts.append(f"t{self.asking.threshold:g}")
        if self.asking.target_llm_usage is not None:
            parts.append(f"u{self.asking.target_llm_usage:g}")
        if self.asking.target_avg_params_b is not None:
            parts.append(f"p{self.asking.target_avg_params_b:g}")
        return "-".join(parts)


@dataclass(frozen=True)
class SuiteProgress:
    """How far a run is.

    Attributes:
        num_done: Finished questions, earlier ones included.
        num_correct: Correct answers among them.
        num_questions: All questions of the run.
    """

    num_done: int
    num_correct: int
    num_questions: int


def run_live(live: LiveRun, on_progress: Callable[[SuiteProgress], None]) -> tuple[Path, RunRecords]:
    """Asks what isn't finished yet, and writes the records.

    Args:
        live: The run.
        on_progress: Told once at the start and after every question.

    Returns:
        The file of records, and what stands in it.

    Raises:
        QueryError: The suite's data can't be loaded.
        LiveError: The orchestrator doesn't answer, or refuses a question.
        JournalError: The journal is of another run, or in use.
        SandboxUnavailable: Programs can't be graded here.
        VerifierChoiceError: A row asks for a verifier, and none can be had.
        VerifierUnreachable: The verifier can't be asked, or says nothing that can be read.
    """
    questions = live.suite.load(live.source, live.limit, live.seed)
    return asyncio.run(_run(live, questions, on_progress))


async def _run(
    live: LiveRun, questions: Sequence[Question[Any]], on_progress: Callable[[SuiteProgress], None]
) -> tuple[Path, RunRecords]:
    folder = live.results / RUNS_FOLDER
    async with AsyncClient(live.address, timeout_s=TIMEOUT_S, retry_s=_RETRY_S, **live.client_options) as client:
        info = await _server_info(client, live.address)
        live = _with_rule(live, info)
        with Journal(folder / f"{live.name}.jsonl", _what_is_run(live, info), _KEY) as journal:
            await _Asker(live, client, journal, questions, on_progress).ask_all()
            rows = [journal.rows[question.question_id] for question in questions]
    records = RunRecords(_run_of(live, info, rows), _table(rows))
    return save_records(records, folder), records


class _Asker:
    """Asks the questions that a journal doesn't hold yet."""

    def __init__(
        self,
        live: LiveRun,
        client: AsyncClient,
        journal: Journal,
        questions: Sequence[Question[Any]],
        on_progress: Callable[[SuiteProgress], None],
    ) -> None:
        self._live = live
        self._client = client
        self._journal = journal
        self._questions = questions
        self._on_progress = on_progress
        self._slots = asyncio.Semaphore(live.concurrency)
        done = [journal.rows[question.question_id] for question in questions if question.question_id in journal.rows]
        self._num_done = len(done)
        self._num_correct = sum(row["correct"] for row in done)

    async def ask_all(self) -> None:
        """Asks until all are finished; the first error ends it, after what is finished is kept."""
        self._tell()
        left = [question for question in self._questions if not self._is_finished(question)]
        tasks = [asyncio.create_task(self._ask(question)) for question in left]
        try:
            for task in asyncio.as_completed(tasks):
                await task
        finally:
            for unfinished in tasks:
                unfinished.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _is_finished(self, question: Question[Any]) -> bool:
        row = self._journal.rows.get(question.question_id)
        if row is not None and row["prompt_digest"] != _digest(question):
            raise JournalError(
                f"{self._journal.path}: question {question.question_id!r} was asked in other words, or graded by "
                "another answer, before; give this run another name, or remove the file"
            )
        return row is not None

    async def _ask(self, question: Question[Any]) -> None:
        async with self._slots:
            answer = await ask(self._client, question.question_id, self._live.asking.request(question.prompt))
            grade = await asyncio.to_thread(self._live.suite.grade, question, answer.text)
            self._journal.append(_row(question, answer, grade, self._live.method))
        self._num_done += 1
        self._num_correct += grade.correct
        self._tell()

    def _tell(self) -> None:
        self._on_progress(SuiteProgress(self._num_done, self._num_correct, len(self._questions)))


async def _server_info(client: AsyncClient, address: str) -> pb.OrchestratorServiceGetServerInfoResponse:
    try:
        return await client.server_info()
    except CallFailed as failure:
        raise LiveError(f"orchestrator {address}: {failure}") from failure


def _with_rule(live: LiveRun, info: pb.OrchestratorServiceGetServerInfoResponse) -> LiveRun:
    """Names the orchestrator's default rule where it isn't the router's, so that the records do."""
    default = next((rule.name for rule in info.rules if rule.is_default), "router")
    if live.asking.rule is not None or default == "router":
        return live
    return replace(live, asking=replace(live.asking, rule=default))


def _what_is_run(live: LiveRun, info: pb.OrchestratorServiceGetServerInfoResponse) -> dict[str, Any]:
    """What has to be the same for a run to go on."""
    return {
        "suite": live.suite.name,
        "data": live.source,
        "seed": live.seed,
        **({"rule": live.asking.rule} if live.asking.rule is not None else {}),
        "threshold": live.asking.threshold,
        "target_llm_usage": live.asking.target_llm_usage,
        **({"target_avg_params_b": average} if (average := live.asking.target_avg_params_b) is not None else {}),
        "max_new_tokens": live.asking.max_new_tokens,
        "slm": f"{info.slm.model_id}@{info.slm.revision}",
        "llm": f"{info.llm.model_id}@{info.llm.revision}",
        "router": info.router.weights_sha256,
    }


def _digest(question: Question[Any]) -> str:
    return hashlib.sha256(f"{question.prompt}{question.graded_by}".encode()).hexdigest()[:16]


def _row(question: Question[Any], answer: Completion, grade: Grade, method: str) -> dict[str, Any]:
    shape = shape_of([token.text for token in answer.tokens])
    usage = answer.usage
    llm_positions = [i for i, token in enumerate(answer.tokens) if token.source == pb.TOKEN_SOURCE_LLM]
    return {
        _KEY: question.question_id,
        "domain": question.domain,
        "correct": grade.correct,
        "finished": answer.finish.reason == pb.FINISH_REASON_STOP,
        "num_prompt_tokens": usage.num_prompt_tokens,
        "num_tokens": usage.num_completion_tokens,
        "llm_positions": [] if method in ("slm", "llm") else llm_positions,
        "think_len": shape.think_len,
        "thought_starts": shape.thought_starts,
        "model": method if method in ("slm", "llm") else "routed",
        "latency_s": answer.seconds,
        # From here on for people; the records don't hold it.
        "threshold": usage.threshold,
        "extracted": grade.extracted,
        "reason": grade.reason,
        "prompt_digest": _digest(question),
        "response": answer.text,
    }


def _run_of(live: LiveRun, info: pb.OrchestratorServiceGetServerInfoResponse, rows: Sequence[dict[str, Any]]) -> Run:
    sizes = {"slm": info.slm.num_parameters, "llm": info.llm.num_parameters}
    if live.method in ("r2r", "slm", "llm"):
        sizes["router"] = info.router.num_parameters
    return Run(
        run_id=live.name,
        suite=live.suite.name,
        method=live.method,
        model_params_b={name: size / 1e9 for name, size in sizes.items()},
        seed=live.seed,
        threshold=None if live.method in ("slm", "llm") else rows[0]["threshold"],
        target_llm_usage=live.asking.target_llm_usage,
        commit=live.commit,
        command=live.command,
    )


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{name: row[name] for name in RECORDS_SCHEMA.names} for row in rows], RECORDS_SCHEMA)
