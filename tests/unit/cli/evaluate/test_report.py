from pathlib import Path

import pytest

from services.cli.errors import CliError
from services.cli.evaluate.report import run_report


def test_report_of_empty_folder_tells_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_report(tmp_path, tmp_path / "report")
    assert f"{tmp_path / 'report' / 'report.md'} shows every table" in capsys.readouterr().err
    assert (tmp_path / "report" / "report.md").read_text().startswith("# ")


def test_report_of_damaged_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(CliError, match=r"sweep\.json: "):
        run_report(tmp_path, tmp_path / "report")
