from dataclasses import replace
from pathlib import Path

import pytest

from labeler_jobs.jobs.survey import read_survey
from labeler_jobs.shards.store import ShardStore
from services.cli.errors import CliError
from services.cli.label.label import run_label
from services.cli.label.options import LabelOptions, LabelStage


@pytest.fixture
def options(tmp_path: Path) -> LabelOptions:
    return LabelOptions(
        stage=LabelStage.DATASET,
        pair="reference",
        source="reference",
        data="",
        split="train",
        out=str(tmp_path),
        num_shards=2,
        shard_index=None,
        shard_map=None,
        limit=4,
        engine=None,
        max_new_tokens=8,
        max_continuation_len=None,
        keep_unfinished=True,
        batch_size=None,
        kv_cache_tokens=None,
        num_threads=1,
        verifier="suite",
    )


def test_stage_whose_shards_are_missing_says_what_to_run_first(options: LabelOptions, tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"responses/part-00000-of-00002.parquet: no such shard; run .* 'responses'"):
        run_label(options)
    assert (tmp_path / "queries" / "part-00001-of-00002.parquet").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 5}, "plan.json: num_queries is 4, this run's is 5"),
        ({"num_shards": 3}, "plan.json: num_shards is 2, this run's is 3"),
        ({"max_new_tokens": 9}, "plan.json: settings.max_new_tokens is 8, this run's is 9"),
        ({"split": "test"}, "reference: split 'test' is not one of"),
        ({"source": "nowhere", "verifier": "model:x"}, "source: 'nowhere' is unknown"),
        ({"source": "aime"}, "--verifier: 'suite' reads the sentences of the reference suite alone"),
        ({"shard_index": 2}, "--shard-index: 2 is not below --shards 2"),
        ({"pair": "nobody"}, "no pair 'nobody'"),
    ],
)
def test_option_that_does_not_fit_is_named(options: LabelOptions, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CliError, match="no such shard"):
        run_label(options)
    with pytest.raises(CliError, match=message):
        run_label(replace(options, **changes))  # type: ignore[arg-type]


def test_job_completion_index_chooses_the_shard(
    options: LabelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    with pytest.raises(CliError, match=r"part-00001-of-00002.parquet: no such shard"):
        run_label(options)
    assert [path.name for path in (tmp_path / "queries").iterdir()] == ["part-00001-of-00002.parquet"]


def test_shard_map_chooses_by_completion_index(
    options: LabelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    with pytest.raises(CliError, match=r"part-00003-of-00004.parquet: no such shard"):
        run_label(replace(options, num_shards=4, shard_map="0,3"))


@pytest.mark.parametrize(
    ("index", "changes", "message"),
    [
        ("2", {"shard_map": "0-1"}, "--shard-map: 0-1 has no place 2"),
        ("0", {"shard_map": "7"}, "7 is not below --shards 2"),
        ("0", {"shard_map": "x"}, "--shard-map: expected numbers and ranges"),
        ("0", {"shard_map": "0", "shard_index": 0}, "--shard-map: give either this or --shard-index"),
        (None, {"shard_map": "0"}, "JOB_COMPLETION_INDEX isn't set"),
    ],
)
def test_shard_map_that_does_not_fit_is_named(
    options: LabelOptions,
    monkeypatch: pytest.MonkeyPatch,
    index: str | None,
    changes: dict[str, object],
    message: str,
) -> None:
    if index is not None:
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    with pytest.raises(CliError, match=message):
        run_label(replace(options, **changes))  # type: ignore[arg-type]


def test_plan_says_what_is_missing_and_makes_nothing(
    options: LabelOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_label(replace(options, stage=LabelStage.RESPONSES, shard_index=1))
    run_label(replace(options, stage=None))
    survey = read_survey(capsys.readouterr().out)
    assert survey.missing == {"responses": [0], **{stage: [0, 1] for stage in list(survey.missing)[1:]}}
    assert survey.needs == {
        "responses": (),
        "prefill": ("responses",),
        "continue": ("responses", "prefill"),
        "verify": ("responses", "continue"),
        "dataset": ("responses", "prefill", "verify"),
    }
    assert not (tmp_path / "prefill").exists()


def test_plan_of_another_run_is_refused(options: LabelOptions) -> None:
    run_label(replace(options, stage=None))
    with pytest.raises(CliError, match="num_shards is 2, this run's is 3"):
        run_label(replace(options, stage=None, num_shards=3))


def test_all_stages_of_one_shard_after_the_other_complete_the_dataset(
    options: LabelOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = replace(options, stage=LabelStage.ALL)
    run_label(replace(everything, shard_index=1))
    assert "still missing" in capsys.readouterr().err
    assert not (tmp_path / "statistics.json").exists()
    run_label(replace(everything, shard_index=0))
    shown = capsys.readouterr().out
    assert "Labelled tokens" in shown
    assert "Cost of labelling" in shown
    statistics = (tmp_path / "statistics.json").read_text()
    run_label(everything)
    assert (tmp_path / "statistics.json").read_text() == statistics


def test_shard_cut_off_in_the_middle_is_named_and_what_is_finished_stays(
    options: LabelOptions, tmp_path: Path
) -> None:
    for stage in (LabelStage.RESPONSES, LabelStage.PREFILL):
        run_label(replace(options, stage=stage))
    damaged = tmp_path / "prefill" / "part-00001-of-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(CliError, match=r"(?s)continue: shard 1 of 2: .*part-00001.*cut off or damaged.*kept"):
        run_label(replace(options, stage=LabelStage.CONTINUE))
    assert ShardStore(str(tmp_path)).exists("continuations/part-00000-of-00002.parquet")
    damaged.unlink()
    for stage in (LabelStage.PREFILL, LabelStage.CONTINUE):
        run_label(replace(options, stage=stage))
    assert ShardStore(str(tmp_path)).exists("continuations/part-00001-of-00002.parquet")


def test_verifier_that_is_neither_url_nor_model_is_named(options: LabelOptions) -> None:
    other = replace(options, verifier="nobody")
    for stage in (LabelStage.RESPONSES, LabelStage.PREFILL, LabelStage.CONTINUE):
        run_label(replace(other, stage=stage))
    with pytest.raises(CliError, match="verifier 'nobody': expected a URL"):
        run_label(replace(other, stage=LabelStage.VERIFY))
