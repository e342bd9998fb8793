from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from evaluation.records.results_files import ResultsError
from evaluation.records.run_records import RecordError
from evaluation.report.build import build_report
from tests.unit.evaluation.report.made_results import save_made_run, write_made_results

TABLES = ["budgets", "claims", "routers", "summary", *(f"table-{at}" for at in range(1, 7))]
FIGURES = ["figure-5-domains", *(f"figure-{at}" for at in range(4, 9))]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_made_results(folder, num_questions=24)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_report_has_every_table_and_figure_and_equal_bytes_when_drawn_again(results: Path, tmp_path: Path) -> None:
    page = build_report(results, tmp_path / "one").read_text()
    made = digests(tmp_path / "one")
    expected = {f"tables/{stem}{suffix}" for stem in TABLES for suffix in (".md", ".csv")}
    expected |= {f"figures/{stem}{suffix}" for stem in FIGURES for suffix in (".png", ".svg")}
    assert set(made) == expected | {"report.md"}
    assert all(f"]({name})" in page for name in expected if not name.endswith(".md"))
    assert "eft out" not in page
    build_report(results, tmp_path / "two")
    assert digests(tmp_path / "two") == made


def test_empty_folder_gives_a_page_that_names_every_missing_file(tmp_path: Path) -> None:
    page = build_report(tmp_path, tmp_path / "out").read_text()
    assert page.count("> **Left out**: missing: `") == len(TABLES) + len(FIGURES)
    names = ("labeling", "token_analysis", "routers", "sweep", "speed")
    assert all(f"missing: `{name}.json`; `make evidence` makes it" in page for name in names)
    assert digests(tmp_path / "out").keys() == {"report.md"}


def test_files_of_an_earlier_report_that_are_left_out_now_are_removed(tmp_path: Path) -> None:
    stale = tmp_path / "out" / "figures" / "figure-8.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    foreign = stale.with_name("mine.png")
    foreign.write_bytes(b"")
    build_report(tmp_path, tmp_path / "out")
    assert not stale.exists()
    assert foreign.exists()


def test_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="nowhere: no such folder"):
        build_report(tmp_path / "nowhere", tmp_path / "out")


def test_damaged_json_is_an_error_that_names_file_and_field(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text('{"provenance": {"command": "x", "commit": ""}, "num_questions": "many"}')
    with pytest.raises(ResultsError, match=r"speed\.json: num_questions"):
        build_report(tmp_path, tmp_path / "out")


def test_damaged_run_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = save_made_run(tmp_path, "slm", 3, 0.5, model="slm")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecordError, match=r"slm-alone-None\.parquet"):
        build_report(tmp_path, tmp_path / "out")
