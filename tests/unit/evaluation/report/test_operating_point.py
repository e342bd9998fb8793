import pytest

from evaluation.records.run_records import RecordError
from evaluation.report.operating_point import accuracy_difference, accuracy_ratio, gather
from tests.unit.evaluation.report.small_runs import records, row, sized


def test_routed_run_counts_llm_positions_and_sizes_by_hand() -> None:
    (point,) = gather(
        [records("r2r", row("a", True, 10, llm_positions=[0, 3]), row("b", False, 30, llm_positions=[5]))]
    )
    # 40 tokens at 1 + 0.5, 3 of them also at 10.
    assert point.accuracy.value == 0.5
    assert point.llm_usage_rate.value == pytest.approx(3 / 40)
    assert point.avg_activated_params_b.value == pytest.approx((40 * 1.5 + 3 * 10) / 40)
    assert point.cost_b.value == pytest.approx((40 * 1.5 + 3 * 10) / 2)
    assert point.tokens_per_response.value == 20


def test_query_level_run_averages_parameters_over_emitted_tokens() -> None:
    (point,) = gather([records("qr_sw", row("a", True, 10, "llm"), row("b", False, 30, "slm"))])
    assert point.llm_usage_rate.value == pytest.approx(0.25)
    assert point.avg_activated_params_b.value == pytest.approx((10 * 10 + 30 * 1) / 40)


def test_rule_without_router_pays_for_no_router() -> None:
    run = sized(records("entropy", row("a", True, 10, llm_positions=[0])), slm=1.0, llm=10.0)
    (point,) = gather([run])
    assert point.avg_activated_params_b.value == pytest.approx(1 + 0.1 * 10)


def test_seeds_of_one_target_are_pooled_by_query() -> None:
    runs = [
        records("r2r", row("a", True, 10), row("b", False, 10), target=0.1, seed=0),
        records("r2r", row("b", True, 10), row("a", True, 10), target=0.1, seed=1),
        records("r2r", row("a", True, 10), row("b", True, 10), target=0.2, seed=0),
    ]
    first, second = gather(runs)
    assert (first.num_seeds, first.num_queries, second.num_seeds) == (2, 2, 1)
    assert first.accuracy.value == 0.75
    # Query a is always right, query b half the time: resampling two queries gives 0.5, 0.75 or 1.
    assert (first.accuracy.low, first.accuracy.high) == (0.5, 1.0)
    assert first.accuracy_by_seed.tolist() == [0.5, 1.0]


def test_domain_holds_its_queries_alone() -> None:
    (point,) = gather([records("slm", row("a", True, 10, "slm"), row("b", False, 20, "slm", domain="qa"))])
    assert point.of_domain("qa").accuracy.value == 0.0
    assert point.of_domain("qa").tokens_per_response.value == 20
    assert point.of_domain(None).num_queries == 2


def test_comparison_pairs_the_queries_that_both_answered() -> None:
    a, b = gather(
        [
            records("r2r", row("a", True, 10), row("b", True, 10), row("c", False, 10)),
            records("slm", row("c", False, 10, "slm"), row("b", False, 10, "slm")),
        ]
    )
    assert accuracy_difference(a, b).value == pytest.approx(0.5)


def test_ratio_needs_correct_answers_to_compare_with() -> None:
    right = [row(f"{at:02d}", True, 10) for at in range(20)]
    wrong = [row(f"{at:02d}", False, 10) for at in range(20, 25)]
    half = [row(f"{at:02d}", at % 2 == 0, 10) for at in range(20)]
    a, b, c = gather(
        [records("r2r", *half, *wrong), records("llm", *right, *wrong), records("hs", *right[1:], *wrong)]
    )
    ratio = accuracy_ratio(a, b)
    assert ratio is not None
    assert ratio.value == pytest.approx(0.5)
    assert accuracy_ratio(a, c) is None


def test_question_twice_is_an_error_that_names_file_and_field() -> None:
    with pytest.raises(RecordError, match=r"r2r-None-None\.parquet: field question_id: a question occurs twice"):
        gather([records("r2r", row("a", True, 10), row("a", True, 10))])


def test_seed_with_other_questions_is_an_error_that_names_both_files() -> None:
    runs = [
        records("r2r", row("a", True, 10), target=0.1, seed=0),
        records("r2r", row("b", True, 9), target=0.1, seed=1),
    ]
    with pytest.raises(RecordError, match=r"r2r-0.1-1\.parquet: field question_id: not the questions of r2r-0.1-0"):
        gather(runs)


def test_same_seed_twice_is_an_error() -> None:
    run = records("r2r", row("a", True, 10), target=0.1, seed=0)
    with pytest.raises(RecordError, match="the same method, target and seed"):
        gather([run, run])


def test_run_without_rows_is_an_error() -> None:
    with pytest.raises(RecordError, match="holds no rows"):
        gather([records("r2r")])


def test_model_without_a_size_is_an_error_that_names_it() -> None:
    with pytest.raises(RecordError, match="model_params_b lacks 'mid'"):
        gather([sized(records("mid", row("a", True, 10, "mid")), slm=1.0)])
