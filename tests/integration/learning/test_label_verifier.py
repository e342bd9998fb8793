"""A labelling run whose verifier is a language model: behind a URL, or on an engine of the run itself."""

import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from evaluation.reference.pair import WEIGHTS_DIR
from labeler_jobs.verifiers.verifier import Label
from services.cli.__main__ import app
from tests.unit.labeler_jobs.verifiers.misbehaving_server import Reply, answered, serve

pytestmark = pytest.mark.integration

NUM_REFUSED = 2
NUM_CHECKS = 1
"""Questions before the first stage, whether anyone is there."""


def label(out: Path, verifier: str) -> str:
    options = {"--out": out, "--limit": 6, "--shards": 2, "--num-threads": 1, "--verifier": verifier}
    result = CliRunner().invoke(app, ["label", "all", *(str(part) for pair in options.items() for part in pair)])
    return result.output if result.exception is None else str(result.exception)


def column(folder: Path, name: str) -> list[object]:
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return [value for table in tables for value in table.column(name).to_pylist()]


def test_label_all_with_an_endpoint_labels_what_the_endpoint_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_VERIFIER_MODEL", "judge")
    monkeypatch.setenv("TRIVIUM_VERIFIER_FIRST_DELAY_S", "0.01")

    def opinion(prompt: str) -> str:
        return ['{"divergent": true}', '{"divergent": false}', "I can't tell."][zlib.crc32(prompt.encode()) % 3]

    def reply(number: int, prompt: str) -> Reply:
        return Reply(status=503) if NUM_CHECKS <= number < NUM_CHECKS + NUM_REFUSED else answered(opinion(prompt))

    with serve(reply) as server:
        output = label(tmp_path, server.base_url)
    # The refused prompts were sent again.
    prompts = {payload["messages"][0]["content"] for payload in server.payloads[NUM_CHECKS:]}
    said = [opinion(payload["messages"][0]["content"]) for payload in server.payloads[NUM_CHECKS + NUM_REFUSED :]]
    verdicts = tmp_path / "verdicts"
    rows = zip(column(verdicts, "label"), column(verdicts, "unparsable"), strict=True)
    forks = [row for row in rows if row[0] != Label.IDENTICAL]
    assert len(forks) == len(said) >= len(prompts) > 10, output
    assert forks.count((Label.DIVERGENT, False)) == said.count('{"divergent": true}') > 0
    assert forks.count((Label.NEUTRAL, False)) == said.count('{"divergent": false}') > 0
    num_unparsable = said.count("I can't tell.")
    assert forks.count((Label.DIVERGENT, True)) == num_unparsable > 0
    labels = column(tmp_path / "dataset", "label")
    assert labels.count(Label.DIVERGENT) == sum(row[0] == Label.DIVERGENT for row in forks)
    assert f"{num_unparsable} verdicts couldn't be read" in " ".join(output.split())


def test_label_all_with_a_model_whose_context_is_too_short_says_so_and_keeps_what_is_done(tmp_path: Path) -> None:
    output = " ".join(label(tmp_path, f"model:{WEIGHTS_DIR / 'llm'}").split())
    assert "verify: shard 0 of 2: the verifier's model needs a longer context" in output
    assert "run the same command again" in output
    assert len(list((tmp_path / "continuations").glob("*.parquet"))) == 2
