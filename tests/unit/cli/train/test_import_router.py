"""`trivium import-router`, and what comes after it: a calibration, and a pair's own check."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from router_service.checkpoint import load_checkpoint
from router_service.checkpoint_files import DESCRIPTION_FILE, WEIGHTS_FILE
from router_service.training.routing_data import RoutingData
from services.cli.__main__ import app
from services.cli.errors import CliError
from services.cli.pair.checks import check_before_start
from services.cli.pairs import shipped_pairs
from services.common.pair import load_pair
from tests.unit.router_service.made import identify_model, made_table, write_dataset
from tests.unit.router_service.published.made_files import VOCAB, made_content, made_features, made_slm, made_state

HIDDEN = 12
COMMIT = "ab" * 20


def trivium(*arguments: str) -> None:
    app(arguments, standalone_mode=False)


def saved(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(made_content(made_state(HIDDEN), **changes), path)
    return path


@pytest.fixture
def slm(tmp_path: Path) -> Path:
    return made_slm(tmp_path / "slm", HIDDEN)


def test_import_of_a_file_for_a_folder_writes_a_checkpoint_and_says_what_is_left(
    tmp_path: Path, slm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trivium("import-router", str(saved(tmp_path / "r.pt")), "--slm", str(slm), "--out", str(tmp_path / "out"))
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.description.slm == identify_model(slm, "slm")
    assert checkpoint.description.threshold == 0.3861
    assert checkpoint.slm_embedding is None
    told = capsys.readouterr().err
    assert "threshold 0.3861" in told
    assert "trivium calibrate" in told


def test_import_with_an_embedding_is_asked_for(tmp_path: Path, slm: Path) -> None:
    arguments = ("import-router", str(saved(tmp_path / "r.pt")), "--slm", str(slm), "--out", str(tmp_path / "out"))
    trivium(*arguments, "--with-embedding")
    assert load_checkpoint(tmp_path / "out").slm_embedding is not None
    trivium(*arguments, "--without-embedding", "--overwrite")
    assert load_checkpoint(tmp_path / "out").slm_embedding is None


def test_import_over_a_checkpoint_needs_to_be_told(tmp_path: Path, slm: Path) -> None:
    arguments = ("import-router", str(saved(tmp_path / "r.pt")), "--slm", str(slm), "--out", str(tmp_path / "out"))
    trivium(*arguments)
    before = (tmp_path / "out" / DESCRIPTION_FILE).read_bytes()
    saved(tmp_path / "r.pt", common_args__threshold=0.9)
    with pytest.raises(CliError, match="holds a checkpoint; --overwrite replaces it"):
        trivium(*arguments)
    assert (tmp_path / "out" / DESCRIPTION_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("none.pt", "--slm", "slm"),
            "none.pt: no such file; of a Hugging Face repository, name the file with --file",
        ),
        ((".", "--slm", "slm"), ".: is no file"),
        (("other.pt", "--slm", "slm"), "model_type: is 'LogitsClassifier'"),
        (("r.pt", "--slm", "@main"), "--slm: expected a folder"),
        (("r.pt", "--slm", "empty"), "model '.*empty': can't be identified"),
        (("r.pt", "--slm", "wide"), "reads 12 columns of an SLM's hidden state; .*'wide' has a hidden size of 16"),
    ],
)
def test_import_bad_input_is_one_error_and_leaves_nothing(
    tmp_path: Path, slm: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "r.pt")
    saved(tmp_path / "other.pt", model_type="LogitsClassifier")
    made_slm(tmp_path / "wide", 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CliError, match=message):
        trivium("import-router", *arguments, "--out", "out")
    assert not (tmp_path / "out").exists()


def test_import_refusal_ends_the_process_as_any_other_with_one_line(tmp_path: Path, slm: Path) -> None:
    path = saved(tmp_path / "r.pt", init_args__normalize_input=True)
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "import-router", str(path), "--slm", str(slm), "--out", "out"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {path}: init_args.normalize_input: is True; routers with it can't be imported"
    ]


def cached(hub: Path, repository: str, commit: str) -> Path:
    """A repository's folder as the Hub's client keeps it."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


def test_import_by_names_of_the_hub_takes_file_and_model_from_there(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    file = "Qwen3-0.6B+Qwen3-8B/default_router.pt"
    saved(cached(hub, "nics-efc/R2R_router_collections", "cd" * 20) / file)
    slm_dir = made_slm(cached(hub, "Qwen/Qwen3-0.6B", COMMIT), HIDDEN)
    command = [sys.executable, "-m", "services.cli", "import-router", "nics-efc/R2R_router_collections"]
    arguments = ["--slm", "Qwen/Qwen3-0.6B", "--out", str(tmp_path / "out")]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [*command, *arguments, *more], env=environment, capture_output=True, text=True, check=False
        )

    missing = run("--file", "Qwen3-9B/default_router.pt")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: 'Qwen3-9B/default_router.pt' of 'nics-efc/R2R_router_collections': ")
    assert missing.stderr.count("\n") == 1
    done = run("--file", file)
    assert done.returncode == 0, done.stderr
    checkpoint = load_checkpoint(tmp_path / "out")
    identity = checkpoint.description.slm
    assert (identity.model_id, identity.revision, identity.vocab_size) == ("Qwen/Qwen3-0.6B", COMMIT, VOCAB)
    # Nobody could read it from a folder, so the checkpoint has it.
    assert checkpoint.slm_embedding is not None
    assert torch.equal(
        checkpoint.slm_embedding, load_file(slm_dir / "model.safetensors")["model.embed_tokens.weight"]
    )


@pytest.fixture
def pair_file(tmp_path: Path, slm: Path) -> Path:
    """A pair of made models, with labelled validation data beside it and an imported router in `out`."""
    llm = made_slm(tmp_path / "llm", 16, seed=4)
    identities = {"slm": identify_model(slm, "labelled-slm"), "llm": identify_model(llm, "labelled-llm")}
    token_ids, hidden_states, logits = made_features(HIDDEN, 300)
    labels = (torch.rand(300, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.int8) * 2
    data = RoutingData(hidden_states.half(), logits.half(), token_ids, labels)
    write_dataset(tmp_path / "dataset", made_table(data, identities))
    models = {role: {"model": f"./{role}"} for role in ("slm", "llm")}
    pair = {"name": "made", "description": "For tests.", **models, "router": {"checkpoint": "./out"}}
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(pair))
    trivium("import-router", str(saved(tmp_path / "r.pt")), "--slm", str(slm), "--out", str(tmp_path / "out"))
    return tmp_path / "pair.yaml"


def calibrate(pair_file: Path, *more: str) -> None:
    folder = pair_file.parent
    trivium(
        *("calibrate", str(folder / "out"), "--validation", str(folder / "dataset"), "--pair", str(pair_file)),
        *("--target-llm-usage", "0.2", *more),
    )


def test_calibrate_gives_an_imported_router_its_sweep_its_llm_and_both_sizes(pair_file: Path) -> None:
    weights = (pair_file.parent / "out" / WEIGHTS_FILE).read_bytes()
    calibrate(pair_file)
    description = load_checkpoint(pair_file.parent / "out").description
    assert len(description.sweep) > 20
    assert description.metrics["validation_llm_usage_rate"] == pytest.approx(0.2, abs=0.01)
    assert (description.metrics["slm_params"], description.metrics["llm_params"]) == (VOCAB * HIDDEN, VOCAB * 16)
    assert description.llm == identify_model(pair_file.parent / "llm", "labelled-llm")
    assert (pair_file.parent / "out" / WEIGHTS_FILE).read_bytes() == weights
    calibrate(pair_file)


def test_calibrate_imported_router_with_another_large_model_is_refused_naming_both(pair_file: Path) -> None:
    folder = pair_file.parent
    shutil.rmtree(folder / "llm")
    other = identify_model(made_slm(folder / "llm", 16, seed=5), "")
    with pytest.raises(CliError, match=f"llm: the LLM's weights are {other.revision}; the dataset was labelled with"):
        calibrate(pair_file)
    assert load_checkpoint(folder / "out").description.llm is None


def test_calibrate_imported_router_on_data_of_another_slm_is_refused_naming_both(pair_file: Path) -> None:
    folder = pair_file.parent
    other = made_slm(folder / "other", HIDDEN, seed=6)
    trivium("import-router", str(folder / "r.pt"), "--slm", str(other), "--out", str(folder / "out"), "--overwrite")
    labelled, found = identify_model(folder / "slm", "").revision, identify_model(other, "").revision
    with pytest.raises(CliError, match=f"labelled with slm 'labelled-slm' at revision '{labelled}'.*'{found}'"):
        calibrate(pair_file)


def test_calibrate_with_an_slm_of_other_weights_in_the_pair_is_refused_naming_both(pair_file: Path) -> None:
    folder = pair_file.parent
    wanted = identify_model(folder / "slm", "").revision
    save_file({"model.embed_tokens.weight": torch.zeros(VOCAB, HIDDEN)}, folder / "slm" / "model.safetensors")
    with pytest.raises(CliError, match=f"slm: the SLM's weights are .*out belongs to {wanted} of 'slm'"):
        calibrate(pair_file)


def test_imported_checkpoint_passes_the_check_before_a_pair_starts(pair_file: Path) -> None:
    check_before_start(load_pair(pair_file), 0, None)


@pytest.mark.parametrize("name", sorted(set(shipped_pairs()) - {"reference"}))
def test_pair_file_tells_the_commands_from_a_published_name_to_a_served_pair(name: str) -> None:
    text = shipped_pairs()[name].read_text()
    pair = load_pair(shipped_pairs()[name])
    lines = [line.strip().removeprefix("# ").strip() for line in text.splitlines()]
    told = " ".join(line.removesuffix("\\") for line in lines if line.startswith(("trivium ", "--slm ")))
    imported, served = (part.split() for part in told.split("trivium ")[1:])
    assert imported[:2] == ["import-router", "nics-efc/R2R_router_collections"]
    options = dict(zip(imported[2::2], imported[3::2], strict=True))
    assert options.keys() == {"--file", "--slm", "--out"}
    assert options["--slm"] == pair.slm.model
    assert options["--file"].endswith("/default_router.pt")
    assert served == ["up", "--pair", name, "--router-checkpoint", options["--out"]]


def test_description_of_an_imported_router_is_plain_json(tmp_path: Path, slm: Path) -> None:
    trivium("import-router", str(saved(tmp_path / "r.pt")), "--slm", str(slm), "--out", str(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / DESCRIPTION_FILE).read_text())
    assert written["config"]["layout"] == "logits_projected"
    assert (written["llm"], written["sweep"]) == (None, [])
