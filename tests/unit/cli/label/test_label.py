import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import Gemma2Config, Gemma2ForCausalLM

from labeler_jobs.jobs.survey import read_survey
from labeler_jobs.shards.store import ShardStore
from labeler_jobs.verifiers.verifier import Label
from services.cli.errors import CliError
from services.cli.label.label import run_label
from services.cli.label.options import LabelOptions, LabelStage
from services.cli.pairs import find_pair
from services.common.pair import load_pair
from tests.unit.labeler_jobs.verifiers.misbehaving_server import Reply, answered, serve


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
        ({"engine": "sglang"}, "settings.engine is 'transformers', this run's is 'sglang'"),
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


@pytest.mark.parametrize("stage", [LabelStage.ALL, LabelStage.RESPONSES, LabelStage.VERIFY, None])
@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        ("nobody", "--verifier: 'nobody': expected 'suite', a URL"),
        ("model:", "--verifier: 'model:': expected 'suite', a URL"),
        ("ftp://host/v1", "--verifier: 'ftp://host/v1': expected 'suite', a URL"),
        ("http://", "--verifier: Input should be a valid URL"),
        ("http://127.0.0.1:1/v1", "TRIVIUM_VERIFIER_MODEL: Field required"),
    ],
)
def test_verifier_that_can_not_be_is_an_error_before_anything_is_made(
    options: LabelOptions, tmp_path: Path, stage: LabelStage | None, verifier: str, message: str
) -> None:
    with pytest.raises(CliError, match=message) as error:
        run_label(replace(options, stage=stage, verifier=verifier))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", [LabelStage.ALL, None])
@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        ("http://127.0.0.1:1/v1", "can't be reached: ConnectError"),
        ("model:/nowhere", "--verifier: the model '/nowhere' can't be loaded"),
    ],
)
def test_verifier_that_is_not_there_is_an_error_before_the_first_stage(
    options: LabelOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: LabelStage | None,
    verifier: str,
    message: str,
) -> None:
    monkeypatch.setenv("TRIVIUM_VERIFIER_MODEL", "judge")
    with pytest.raises(CliError, match=message) as error:
        run_label(replace(options, stage=stage, verifier=verifier))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_verifier_that_does_not_know_the_model_is_an_error_before_the_first_stage(
    options: LabelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_VERIFIER_MODEL", "judge")
    with (
        serve(lambda number, prompt: Reply(404, b"no such model")) as server,
        pytest.raises(CliError, match="refused the request: HTTP 404 no such model"),
    ):
        run_label(replace(options, stage=LabelStage.ALL, verifier=server.base_url))
    assert not (tmp_path / "responses").exists()
    # Corrected in the same folder, since there is no verdict yet.
    run_label(replace(options, stage=LabelStage.ALL, limit=4))
    assert json.loads((tmp_path / "plan.json").read_text())["settings"]["verifier"] == "suite"


def test_small_model_that_can_not_be_labelled_with_is_an_error_before_the_first_stage(
    options: LabelOptions, tmp_path: Path
) -> None:
    pair = load_pair(find_pair("reference"))
    slm = tmp_path / "slm"
    shutil.copytree(pair.slm.model, slm)
    vocab_size = json.loads((slm / "config.json").read_text())["vocab_size"]
    (slm / "model.safetensors").unlink()
    capped = Gemma2Config(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.01, layer_types=["full_attention"],
    )  # fmt: skip
    Gemma2ForCausalLM(capped).save_pretrained(slm)  # type: ignore[no-untyped-call]
    made = {"name": "made", "description": "For tests.", "slm": {"model": str(slm)}, "llm": {"model": pair.llm.model}}
    (tmp_path / "pair.yaml").write_text(json.dumps({**made, "router": {}}))
    out = tmp_path / "labels"
    with pytest.raises(CliError, match="Gemma2ForCausalLM changes its logits after the output embedding"):
        run_label(replace(options, stage=LabelStage.ALL, pair=str(tmp_path / "pair.yaml"), out=str(out)))
    assert not (out / "responses").exists()


def test_memory_and_threads_may_change_between_two_commands(options: LabelOptions) -> None:
    run_label(replace(options, stage=LabelStage.RESPONSES))
    other = replace(options, num_threads=2, batch_size=3, kv_cache_tokens=4096)
    run_label(replace(other, stage=LabelStage.PREFILL))


def test_verdicts_of_one_verifier_are_not_mixed_with_anothers_but_made_anew(
    options: LabelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = replace(options, stage=LabelStage.ALL, max_new_tokens=48)
    run_label(everything)
    kept = {path: path.read_bytes() for path in (tmp_path / "continuations").iterdir()}
    monkeypatch.setenv("TRIVIUM_VERIFIER_MODEL", "judge")
    with serve(lambda number, prompt: answered('{"divergent": true}')) as server:
        judged = replace(everything, verifier=server.base_url)
        with pytest.raises(CliError, match=r"settings.verifier is 'suite'.*`trivium label reverify` makes new ones"):
            run_label(judged)
        with pytest.raises(CliError, match="run it without a shard's number"):
            run_label(replace(judged, reverify=True, shard_index=0))
        with pytest.raises(CliError, match="can't be reached"):
            run_label(replace(judged, reverify=True, verifier="http://127.0.0.1:1/v1"))
        assert len(list((tmp_path / "verdicts").glob("*.parquet"))) == 2
        run_label(replace(judged, reverify=True))
        num_asked = len(server.payloads)
        # The same again, and at another port: nothing is left to do, and nothing is lost.
        run_label(replace(judged, reverify=True, verifier="http://localhost:" + server.base_url.rpartition(":")[2]))
        run_label(judged)
        assert len(server.payloads) == num_asked + 1
        monkeypatch.setenv("TRIVIUM_VERIFIER_MODEL", "another")
        with pytest.raises(CliError, match=r"settings.verifier_model is 'judge', this run's is 'another'"):
            run_label(judged)
    labels = [
        label
        for path in sorted((tmp_path / "verdicts").glob("*.parquet"))
        for label in pq.read_table(path)["label"].to_pylist()
    ]
    assert labels
    assert set(labels) == {Label.DIVERGENT}
    assert kept == {path: path.read_bytes() for path in (tmp_path / "continuations").iterdir()}
    assert "Labelled tokens" in capsys.readouterr().out


def test_verifier_whose_verdicts_can_not_be_read_ends_the_run_early_and_is_shown(
    options: LabelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_VERIFIER_MODEL", "judge")
    with (
        serve(lambda number, prompt: answered("Sure! They are alike.")) as server,
        pytest.raises(
            CliError, match=r"first 8 verdicts can be read; the last one ends with 'Sure! They are alike.'"
        ),
    ):
        run_label(replace(options, stage=LabelStage.ALL, max_new_tokens=48, limit=8, verifier=server.base_url))
    assert len(server.payloads) == 1 + 8
    assert (tmp_path / "continuations" / "part-00001-of-00002.parquet").exists()
    assert not list((tmp_path / "verdicts").glob("*.parquet"))
