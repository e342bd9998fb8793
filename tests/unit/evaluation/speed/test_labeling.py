from dataclasses import asdict
from pathlib import Path

import pytest

from evaluation.speed.labeling import Prefixed, SizeRun, Timed, draw, fit_line, least, measure_loop, write_naively
from labeler_jobs.models.huggingface import generate_ids
from tests.unit.labeler_jobs.tiny import EOS, make_model


def run(num_tokens: int, *stage_seconds: float) -> SizeRun:
    stages = {str(index): Timed(num_tokens, cpu_s, 2 * cpu_s) for index, cpu_s in enumerate(stage_seconds)}
    return SizeRun(num_tokens // 100, num_tokens, stages)


def test_line_through_linear_costs_explains_all_of_them() -> None:
    fit = fit_line([run(1000, 1.5, 0.5), run(2000, 3.0, 0.5), run(4000, 6.0, 0.5)])
    assert fit.slope_s_per_token == pytest.approx(1.5e-3)
    assert fit.intercept_s == pytest.approx(0.5)
    assert fit.r_squared == pytest.approx(1.0)
    assert fit_line([run(1000, 1.0), run(2000, 4.0), run(4000, 16.0)]).r_squared < 0.98


def test_least_takes_the_best_turn_of_every_stage() -> None:
    assert least([run(1000, 1.0, 5.0), run(1000, 2.0, 3.0)]).cpu_s == 4.0


def test_naive_loop_writes_what_a_cache_writes() -> None:
    llm = make_model(seed=1)
    [written] = generate_ids(llm, [[2, 3, 4]], 6)
    timed, num_unlike = measure_loop(write_naively, llm, [Prefixed([2, 3, 4], written)])
    assert EOS not in written[:-1]
    assert (timed.num_tokens, num_unlike) == (len(written), 0)
    _, num_unlike = measure_loop(write_naively, llm, [Prefixed([2, 3, 4], [token + 1 for token in written])])
    assert num_unlike == 1


def test_figure_is_drawn_as_png_and_svg(tmp_path: Path) -> None:
    runs = [run(1000, 1.0), run(2000, 2.1)]
    result = {"runs": [asdict(size) | {"cpu_s": size.cpu_s} for size in runs], "fit": asdict(fit_line(runs))}
    assert {path.suffix for path in draw(result, tmp_path / "cost")} == {".png", ".svg"}
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())
