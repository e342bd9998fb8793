"""The live runner against an orchestrator that answers what a test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest
from trivium.v1 import orchestrator_pb2 as pb
from trivium.v1 import orchestrator_pb2_grpc

from evaluation.live import client as live_client
from evaluation.live.client import Asking, LiveError
from evaluation.live.journal import JournalError
from evaluation.live.run import LiveRun, SuiteProgress, run_live
from evaluation.records.run_records import load_records
from evaluation.suites.reference import ReferenceSuite
from evaluation.suites.suite import Question
from tests.unit.cli.fakes import LLM, ROUTER, SLM, serving

NUM_QUESTIONS = 4
# Nothing is read from the corpus: drawing what is held out takes seconds.
ANSWERS = {f"query {number}": number for number in range(NUM_QUESTIONS)}


class MadeSuite(ReferenceSuite):
    """The reference suite's grader over made questions."""

    def load(self, source: str, limit: int | None, seed: int) -> list[Question[int]]:
        made = [Question(f"q{number}", "math", query, number) for query, number in ANSWERS.items()]
        return made[:limit]


class Answering(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Answers every query but the first rightly; tokens are words, and the LLM writes every third."""

    def __init__(self, fail: Callable[[int], grpc.StatusCode | None] = lambda number: None) -> None:
        self.asked: list[str] = []
        self.num_active = self.most_active = 0
        self._fail = fail
        self._lock = threading.Lock()

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        query = request.chat.messages[0].content
        with self._lock:
            self.asked.append(query)
            number = len(self.asked)
            self.num_active += 1
            self.most_active = max(self.most_active, self.num_active)
        try:
            if (code := self._fail(number)) is not None:
                context.abort(code, "not now")
            words = ["<think>", "\nWait", " so", "</think>", f" The answer is {ANSWERS[query] or 7}."]
            for position, word in enumerate(words):
                source = pb.TOKEN_SOURCE_LLM if position % 3 == 0 else pb.TOKEN_SOURCE_SLM
                yield pb.GenerateResponse(
                    text=word,
                    token_ids=[1],
                    sources=[source],
                    divergence_probabilities=[0.5],
                    text_lengths=[len(word)],
                )
            usage = pb.Usage(
                num_prompt_tokens=3, num_completion_tokens=len(words), threshold=request.threshold or 0.5
            )
            yield pb.GenerateResponse(finish=pb.Finish(reason=pb.FINISH_REASON_STOP, usage=usage))
        finally:
            with self._lock:
                self.num_active -= 1

    def GetServerInfo(
        self, request: pb.OrchestratorServiceGetServerInfoRequest, context: grpc.ServicerContext
    ) -> pb.OrchestratorServiceGetServerInfoResponse:
        return pb.OrchestratorServiceGetServerInfoResponse(slm=SLM, llm=LLM, router=ROUTER)

    def Cancel(self, request: pb.CancelRequest, context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no test cancels")


@contextmanager
def running(orchestrator: Answering, results: Path, **options: Any) -> Iterator[LiveRun]:
    def register(server: grpc.Server) -> None:
        orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server)

    asking = options.pop("asking", Asking())
    defaults: dict[str, Any] = {"source": "", "seed": 0, "limit": None, "concurrency": 2, "command": "trivium …"}
    with serving(register) as address:
        yield LiveRun(suite=MadeSuite(), asking=asking, address=address, results=results, **{**defaults, **options})


def ignore(progress: SuiteProgress) -> None:
    pass


def test_run_live_writes_one_row_a_question(tmp_path: Path) -> None:
    orchestrator = Answering()
    told: list[SuiteProgress] = []
    with running(orchestrator, tmp_path) as live:
        path, records = run_live(live, told.append)
    assert path == tmp_path / "runs" / "reference-r2r.parquet"
    assert load_records(path) == records
    assert (records.run.method, records.run.threshold, records.run.target_llm_usage) == ("r2r", 0.5, None)
    assert records.run.model_params_b["llm"] == LLM.num_parameters / 1e9
    rows = records.table.to_pylist()
    assert {row["question_id"]: row["correct"] for row in rows} == {"q0": False, "q1": True, "q2": True, "q3": True}
    assert rows[0]["latency_s"] > 0
    del rows[0]["latency_s"]
    assert rows[0] == {
        "question_id": "q0", "domain": "math", "correct": False, "finished": True, "num_prompt_tokens": 3,
        "num_tokens": 5, "llm_positions": [0, 3], "think_len": 4, "thought_starts": [0, 1], "model": "routed",
    }  # fmt: skip
    assert told[-1] == SuiteProgress(4, 3, 4)
    assert orchestrator.most_active <= 2


@pytest.mark.parametrize(("threshold", "method"), [(0.0, "llm"), (2.0, "slm")])
def test_run_live_one_model_alone_has_no_llm_positions(tmp_path: Path, threshold: float, method: str) -> None:
    with running(Answering(), tmp_path, asking=Asking(threshold=threshold)) as live:
        path, records = run_live(live, ignore)
    assert path.name == f"reference-{method}.parquet"
    assert (records.run.method, records.run.threshold) == (method, None)
    assert {row["model"] for row in records.table.to_pylist()} == {method}
    assert not any(row["llm_positions"] for row in records.table.to_pylist())


def test_run_live_target_is_asked_for_and_recorded(tmp_path: Path) -> None:
    asking = Asking(target_llm_usage=0.1, max_new_tokens=9)
    assert asking.request("q").WhichOneof("routing") == "target_llm_usage"
    with running(Answering(), tmp_path, asking=asking) as live:
        path, records = run_live(live, ignore)
    assert path.name == "reference-r2r-u0.1.parquet"
    assert records.run.target_llm_usage == 0.1


def test_run_live_average_parameters_are_asked_for_and_tell_runs_apart(tmp_path: Path) -> None:
    asking = Asking(target_avg_params_b=3.5)
    assert asking.request("q").target_avg_params_b == 3.5
    with running(Answering(), tmp_path, asking=asking) as live:
        assert run_live(live, ignore)[0].name == "reference-r2r-p3.5.parquet"
    other = Asking(target_avg_params_b=4.0)
    with (
        running(Answering(), tmp_path, run_id="reference-r2r-p3.5", asking=other) as live,
        pytest.raises(JournalError, match=r"target_avg_params_b 3.5, not 4.0"),
    ):
        run_live(live, ignore)


def test_run_live_question_that_is_graded_by_another_answer_is_refused(tmp_path: Path) -> None:
    class Regraded(MadeSuite):
        def load(self, source: str, limit: int | None, seed: int) -> list[Question[int]]:
            return [replace(question, graded_by="7") for question in super().load(source, limit, seed)]

    with running(Answering(), tmp_path) as live:
        run_live(live, ignore)
        with pytest.raises(JournalError, match="'q0' was asked in other words, or graded by another answer, before"):
            run_live(replace(live, suite=Regraded()), ignore)


def test_run_live_again_asks_nothing_and_writes_the_same(tmp_path: Path) -> None:
    orchestrator = Answering()
    with running(orchestrator, tmp_path) as live:
        path, first = run_live(live, ignore)
        path.unlink()
        assert run_live(live, ignore) == (path, first)
    assert len(orchestrator.asked) == NUM_QUESTIONS


def test_run_live_with_a_larger_limit_asks_only_the_rest(tmp_path: Path) -> None:
    orchestrator = Answering()
    with running(orchestrator, tmp_path, limit=1) as live:
        assert run_live(live, ignore)[1].table.num_rows == 1
    with running(orchestrator, tmp_path, limit=3) as live:
        assert run_live(live, ignore)[1].table.num_rows == 3
    assert sorted(orchestrator.asked) == ["query 0", "query 1", "query 2"]


def test_run_live_refused_question_is_named_and_finished_ones_are_kept(tmp_path: Path) -> None:
    failing = Answering(lambda number: grpc.StatusCode.OUT_OF_RANGE if number == 3 else None)
    with running(failing, tmp_path, concurrency=1) as live, pytest.raises(LiveError) as error:
        run_live(live, ignore)
    assert str(error.value) == "question 'q2': OUT_OF_RANGE: not now"
    assert not (tmp_path / "runs" / "reference-r2r.parquet").exists()
    orchestrator = Answering()
    with running(orchestrator, tmp_path) as live:
        run_live(live, ignore)
    assert sorted(orchestrator.asked) == ["query 2", "query 3"]


def test_run_live_orchestrator_away_for_a_moment_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_client, "_FIRST_PAUSE_S", 0.01)
    away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    orchestrator = Answering(lambda number: away[number % 2] if number <= 3 else None)
    with running(orchestrator, tmp_path) as live:
        assert run_live(live, ignore)[1].table.num_rows == NUM_QUESTIONS
    assert len(orchestrator.asked) == NUM_QUESTIONS + 3


def test_run_live_no_orchestrator_is_one_error(tmp_path: Path) -> None:
    with running(Answering(), tmp_path) as live:
        pass
    with pytest.raises(LiveError, match=r"orchestrator 127.0.0.1:\d+: UNAVAILABLE"):
        run_live(live, ignore)
    assert not (tmp_path / "runs").exists()


def test_run_live_other_words_for_a_finished_question_are_refused(tmp_path: Path) -> None:
    with running(Answering(), tmp_path) as live:
        run_live(live, ignore)
    journal = tmp_path / "runs" / "reference-r2r.jsonl"
    lines = journal.read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), "prompt_digest": "another"})
    journal.write_text("\n".join(lines) + "\n")
    with (
        running(Answering(), tmp_path) as live,
        pytest.raises(JournalError, match="was asked in other words, or graded by"),
    ):
        run_live(live, ignore)


def test_run_live_other_settings_under_the_same_name_are_refused(tmp_path: Path) -> None:
    with running(Answering(), tmp_path, run_id="mine") as live:
        run_live(live, ignore)
    with (
        running(Answering(), tmp_path, run_id="mine", asking=Asking(threshold=0.25)) as live,
        pytest.raises(JournalError, match=r"mine.jsonl: holds a run with threshold None, not 0.25"),
    ):
        run_live(live, ignore)
