"""The suites by name, and files of a user's own questions."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from evaluation.graders.sandbox import Sandbox
from evaluation.suites.aime import AimeSuite
from evaluation.suites.gpqa import GpqaSuite
from evaluation.suites.livecodebench import FIRST_DAY, LAST_DAY, LiveCodeBenchSuite
from evaluation.suites.own.rows import check_grader
from evaluation.suites.own.suite import OwnSuite
from evaluation.suites.reference import ReferenceSuite
from evaluation.suites.suite import Suite
from labeler_jobs.queries.rows import SUFFIXES
from labeler_jobs.verifiers.chat_endpoint import ChatEndpoint, endpoint_settings
from labeler_jobs.verifiers.names import VerifierChoiceError, is_url

SUITE_NAMES = (AimeSuite.name, GpqaSuite.name, LiveCodeBenchSuite.name, ReferenceSuite.name)


def is_own(name: str) -> bool:
    """Whether a suite's name is that of a file of questions, there or not."""
    return name not in SUITE_NAMES and (Path(name).suffix in SUFFIXES or "/" in name or Path(name).is_file())


def open_suite(
    name: str,
    *,
    allow_unisolated: bool = False,
    first_day: datetime.date | None = None,
    last_day: datetime.date | None = None,
) -> Suite[Any]:
    """A suite, ready to load and grade: what grading needs is tried here, before anyone answers a question.

    Args:
        name: One of `SUITE_NAMES`.
        allow_unisolated: Run programs even where they can't be isolated; see `evaluation.graders.sandbox`.
        first_day: Of LiveCodeBench's contests; None is the paper's.
        last_day: Likewise.

    Raises:
        ValueError: No suite has this name.
        SandboxUnavailable: Its programs can't be isolated here, and that isn't allowed.
    """
    if name == LiveCodeBenchSuite.name:
        return LiveCodeBenchSuite(_tried_sandbox(allow_unisolated), first_day or FIRST_DAY, last_day or LAST_DAY)
    for kind in (AimeSuite, GpqaSuite, ReferenceSuite):
        if name == kind.name:
            return kind()
    raise ValueError(f"no suite {name!r}; there are {', '.join(SUITE_NAMES)}, and files of your own questions")


def open_own(
    path: str, *, grader: str | None = None, verifier: str | None = None, allow_unisolated: bool = False
) -> OwnSuite:
    """The suite of a file of questions.

    Args:
        path: The file.
        grader: Grades rows that name none.
        verifier: Beginning of the URL of the model that verifies, for rows that ask for one.
        allow_unisolated: As in `open_suite`.

    Raises:
        QueryError: There is no such grader.
    """

    def open_judge() -> ChatEndpoint:
        if verifier is None or not is_url(verifier):
            raise VerifierChoiceError("--verifier: rows are graded by a verifier; name its URL (http://…)")
        endpoint = ChatEndpoint(endpoint_settings(verifier))
        endpoint.check()
        return endpoint

    return OwnSuite(
        Path(path),
        None if grader is None else check_grader(grader),
        taken=SUITE_NAMES,
        open_sandbox=lambda: _tried_sandbox(allow_unisolated),
        open_judge=open_judge,
    )


def _tried_sandbox(allow_unisolated: bool) -> Sandbox:
    sandbox = Sandbox(allow_unisolated=allow_unisolated)
    sandbox.run({"main.py": ""}, "main.py")
    return sandbox
