r"""Grades mathematical answers with math-verify: the last box, else the last "the answer is ..." (`settled`).

math-verify and sympy run in a worker process, because an answer such as `9^{9^{9^9}}` keeps them busy for ever in
arithmetic that no signal interrupts: the worker is killed, and the answer is wrong. That works from any thread.
"""

from __future__ import annotations

import json
import re
import selectors
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

from evaluation.graders.grade import Grade
from evaluation.graders.math_statement import answers
from evaluation.graders.math_text import is_readable, normal_form
from evaluation.graders.settled import Found, first_that_answers, settle

_PLAIN_INTEGER = re.compile(r"[+-]?\d+")
_MAX_ANSWER_LEN = 500
_START_TIMEOUT_S = 120.0
_UNREADABLE: dict[str, Any] = {"read": None}


class MathGrader:
    """Grades with one worker process, started with the first answer that needs it. Safe to use from several threads.

    Close it, or use it as a context manager.

    Args:
        timeout_s: Seconds that one comparison may take.
    """

    def __init__(self, timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MathGrader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def grade(self, response: str, gold: str) -> Grade:
        """Compares a response's answer with the right one.

        Args:
            response: All of it.
            gold: The right answer, a number or LaTeX.
        """
        found = extract_answer(response, gold)
        if found is None:
            return Grade(correct=False, extracted=None, reason="no box and no stated answer")
        how, shown = found.how, found.answer[:_MAX_ANSWER_LEN]
        if len(found.answer) > _MAX_ANSWER_LEN:
            return Grade(correct=False, extracted=shown, reason=f"{how}, too long to be read")
        answer, right = normal_form(found.answer), normal_form(gold)
        if _PLAIN_INTEGER.fullmatch(answer) and _PLAIN_INTEGER.fullmatch(right):
            return Grade(int(answer) == int(right), answer, f"{how}, {gold} is right")
        verdict = self._ask(right, answer) if is_readable(answer, right) else _UNREADABLE
        if verdict is None:
            return Grade(correct=False, extracted=shown, reason=f"{how}, not read within {self._timeout_s:g} s")
        if verdict["read"] is None:
            return Grade(correct=False, extracted=shown, reason=f"{how}, can't be read as mathematics")
        return Grade(verdict["correct"], answer, f"{how}, {gold} is right")

    def close(self) -> None:
        """Ends the worker."""
        with self._lock:
            self._end_worker()

    def _ask(self, gold: str, answer: str) -> dict[str, Any] | None:
        with self._lock:
            if self._worker is None:
                self._worker = subprocess.Popen(
                    [sys.executable, "-m", "evaluation.graders.math_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                # The first answer waits for the imports as well.
                self._exchange("1", "1", _START_TIMEOUT_S)
            reply = self._exchange(gold, answer, self._timeout_s)
            if reply is None:
                self._end_worker()
            return reply

    def _exchange(self, gold: str, answer: str, timeout_s: float) -> dict[str, Any] | None:
        """One question and its reply; None if none comes in time, or the worker ends over it."""
        assert self._worker is not None
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        try:
            question = {"gold": gold, "answer": answer, "timeout_s": timeout_s}
            self._worker.stdin.write(json.dumps(question).encode() + b"\n")
            self._worker.stdin.flush()
        except BrokenPipeError:
            return None
        with selectors.DefaultSelector() as selector:
            selector.register(self._worker.stdout, selectors.EVENT_READ)
            # A little longer than the worker gives itself.
            if not selector.select(timeout_s + 1):
                return None
        line = self._worker.stdout.readline()
        reply: dict[str, Any] | None = json.loads(line) if line else None
        return reply

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            # Closes the pipes and waits.
            with self._worker:
                self._worker = None


def extract_answer(response: str, gold: str) -> Found[str] | None:
    """The answer that a response settles on, as it is written; None where it gives none.

    Args:
        response: All of it.
        gold: The right answer, which tells whether a number is asked for.
    """

    def read(part: str) -> Found[str] | None:
        return settle(part, answers(part, gold))

    return first_that_answers(response, read)
