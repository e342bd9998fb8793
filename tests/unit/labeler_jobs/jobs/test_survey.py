import pytest

from labeler_jobs.jobs.survey import Survey, SurveyError, read_survey

NEEDS = {"responses": (), "prefill": ("responses",), "continue": ("responses", "prefill")}


def survey(responses: list[int], prefill: list[int], continued: list[int]) -> Survey:
    return Survey({"responses": responses, "prefill": prefill, "continue": continued}, NEEDS)


def test_survey_is_found_among_what_else_a_pod_writes() -> None:
    written = survey([], [1, 2], [0, 1, 2])
    log = f"a warning\n{survey([0], [0], [0]).to_json()}\n{written.to_json()}\nanother\n"
    assert read_survey(log) == written


@pytest.mark.parametrize(
    "log", ["", "error: no room", '{"other": 1}', '{"missing": {"a": "x"}, "needs": {}}', '{"missing": 3}']
)
def test_log_without_a_survey_is_an_error(log: str) -> None:
    with pytest.raises(SurveyError):
        read_survey(log)


@pytest.mark.parametrize(
    ("missing", "stages", "lacking"),
    [
        (([0, 1], [0, 1], [0, 1]), ["responses", "prefill", "continue"], None),
        (([0, 1], [0, 1], [0, 1]), ["prefill", "continue"], ("prefill", "responses", [0, 1])),
        (([], [1], [0, 1]), ["continue"], ("continue", "prefill", [1])),
        (([], [1], [0]), ["continue"], None),
        (([0, 1], [], []), ["continue"], None),
        (([2], [1, 2], []), ["prefill"], ("prefill", "responses", [2])),
    ],
)
def test_stage_lacks_what_neither_is_there_nor_comes_before_it(
    missing: tuple[list[int], list[int], list[int]], stages: list[str], lacking: object
) -> None:
    assert survey(*missing).lacking(stages) == lacking
