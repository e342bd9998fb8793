"""`trivium evaluate report`: draws the report and tells where it is."""

from __future__ import annotations

from pathlib import Path

from evaluation.records.results_files import ResultsError
from evaluation.records.run_records import RecordError
from evaluation.report.build import build_report
from services.cli.console import note
from services.cli.errors import CliError


def run_report(results: Path, out: Path) -> None:
    """Draws every table and figure.

    Args:
        results: Folder of stored results.
        out: Folder of the report.

    Raises:
        CliError: The folder is missing, or a file in it is damaged.
    """
    try:
        page = build_report(results, out)
    except (ResultsError, RecordError) as error:
        raise CliError(str(error)) from error
    note(f"{page} shows every table and figure; what is left out is named there")
