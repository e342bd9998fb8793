"""Draws the report: every table as Markdown and CSV, every figure as PNG and SVG, and a page that shows them all.

Reads stored results alone; no model runs. Equal results give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evaluation.report.claims import claims
from evaluation.report.figures.indicators import indicators
from evaluation.report.figures.position import usage_by_position
from evaluation.report.figures.scaling import cost_scaling, scaling, scaling_by_domain
from evaluation.report.figures.threshold import thresholds
from evaluation.report.markdown_table import ReportTable
from evaluation.report.page import FIGURES_FOLDER, TABLES_FOLDER, Section, render_page
from evaluation.report.parts import Part
from evaluation.report.stored import MissingInput, StoredResults
from evaluation.report.style import report_style, save_figure
from evaluation.report.tables.ablation import ablation
from evaluation.report.tables.budgets import budgets
from evaluation.report.tables.labeling import label_statistics, labeling_cost
from evaluation.report.tables.main import main_comparison
from evaluation.report.tables.routers import routers_on_validation
from evaluation.report.tables.speed import speculative, wall_clock
from evaluation.report.tables.summary import summary

PAGE = "report.md"

_PARTS: tuple[tuple[str, str, Callable[[StoredResults], Part]], ...] = (
    ("summary", "In short", summary),
    ("claims", "What the paper shows, and what shows here", claims),
    ("table-1", "Table 1: labels", label_statistics),
    ("figure-4", "Figure 4: what tells divergent tokens from others", indicators),
    ("figure-5", "Figure 5: accuracy against average activated parameters", scaling),
    ("figure-5-domains", "Figure 5 by domain", scaling_by_domain),
    ("table-2", "Table 2: accuracy, size and cost by domain", main_comparison),
    ("table-3", "Table 3: wall-clock speed", wall_clock),
    ("table-4", "Table 4: objective and inputs of the router", ablation),
    ("figure-6", "Figure 6: where the LLM is asked", usage_by_position),
    ("table-5", "Table 5: speculative decoding", speculative),
    ("table-6", "Table 6: cost of labelling", labeling_cost),
    ("figure-7", "Figure 7: accuracy against total cost", cost_scaling),
    ("figure-8", "Figure 8: thresholds", thresholds),
    ("routers", "Routers on validation tokens", routers_on_validation),
    ("budgets", "Budgets: LLM usage asked for and taken", budgets),
)
_SUFFIXES = {TABLES_FOLDER: (".md", ".csv"), FIGURES_FOLDER: (".png", ".svg")}


def build_report(results: Path, out: Path) -> Path:
    """Draws everything that the stored results allow.

    What lacks its input is left out, with a line on the page that names the file and the command that makes it; files
    of an earlier report that are left out now are removed.

    Args:
        results: Folder with `runs/*.parquet` and the JSON files of `evaluation.records.results_files`.
        out: Folder of the report; made when missing.

    Returns:
        The page.

    Raises:
        ResultsError: There is no such folder, or a JSON file is damaged.
        RecordError: A file of records is damaged.
    """
    stored = StoredResults.load(results)
    for folder in _SUFFIXES:
        (out / folder).mkdir(parents=True, exist_ok=True)
    with report_style():
        sections = [_draw(stored, stem, title, maker, out) for stem, title, maker in _PARTS]
    page = out / PAGE
    page.write_text(render_page(stored, sections), encoding="utf-8")
    return page


def _draw(stored: StoredResults, stem: str, title: str, maker: Callable[[StoredResults], Part], out: Path) -> Section:
    for folder, suffixes in _SUFFIXES.items():
        for suffix in suffixes:
            (out / folder / f"{stem}{suffix}").unlink(missing_ok=True)
    try:
        part = maker(stored)
    except MissingInput as missing:
        return Section(stem, title, None, str(missing))
    if isinstance(part.content, ReportTable):
        table = out / TABLES_FOLDER / stem
        table.with_suffix(".md").write_text(part.content.as_markdown(), encoding="utf-8")
        table.with_suffix(".csv").write_text(part.content.as_csv(), encoding="utf-8")
    else:
        save_figure(part.content, out / FIGURES_FOLDER / stem)
    return Section(stem, title, part)
