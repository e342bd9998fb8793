"""What `trivium evaluate evidence` does: gathers everything that the claims about the reference pair rest on.

Owns what is shown; the steps are `evaluation.evidence`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.logging import RichHandler

from evaluation.evidence.plan import Evidence
from evaluation.evidence.run import STEP_ERRORS, STEP_NAMES, gather
from services.cli.console import err
from services.cli.errors import CliError


def run_evidence(*, build: Path, results: Path, num_jobs: int, only: Sequence[str]) -> None:
    """Makes what is missing.

    Args:
        build: Folder for what is large.
        results: Folder for what is small and kept.
        num_jobs: Decodes at a time.
        only: Names of the steps to run; all without any.

    Raises:
        CliError: There is no such step, or one failed; finished steps are kept.
    """
    if unknown := sorted(set(only) - set(STEP_NAMES)):
        raise CliError(f"--only: no step {unknown[0]!r}; steps are {', '.join(STEP_NAMES)}")
    handler = RichHandler(console=err, show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    try:
        gather(Evidence(build=build, results=results), num_jobs, only)
    except STEP_ERRORS as error:
        raise CliError(f"{error}\nFinished steps are kept; run the same command again to go on.") from error
