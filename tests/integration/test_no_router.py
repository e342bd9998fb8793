"""`trivium up` with a pair file that has no router: served by entropy, by the processes of both models alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from evaluation.exactness import reference_decodings
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, draw_sample
from evaluation.reference.pair import LoadedPair
from labeler_jobs.models.huggingface import render_prompt
from services.cli.pairs import find_pair
from services.client import Client, Options, tokens_request
from services.rules.chosen import ChosenRule
from services.rules.shipped import EntropyRule
from tests.integration.harness.completions import FIRST_HELD_OUT, NUM_PROMPTS, Completion, assert_is_reference
from tests.integration.harness.up import RunningUp, running_up, trivium

THRESHOLD = 0.5
QUESTION = "Ann starts with 24 stones. On Monday she buys 6 stones. How many stones does Ann have now?"


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference pair's without its router."""
    content = yaml.safe_load(find_pair("reference").read_text(encoding="utf-8"))
    del content["router"]
    path = tmp_path_factory.mktemp("pair") / "bare.yaml"
    path.write_text(yaml.safe_dump(content | {"name": "bare", "rule": f"entropy:threshold={THRESHOLD}"}))
    return path


@pytest.fixture(scope="module")
def up(pair_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    with running_up(tmp_path_factory.mktemp("state"), "--pair", str(pair_file)) as running:
        yield running


def test_no_router_is_started_listed_or_missed(up: RunningUp) -> None:
    names = {line.split()[0] for line in up.start_lines[1:-1]}
    assert names == {"redis", "slm", "llm", "orchestrator", "gateway"}
    assert not any("router_service" in child.cmdline() for child in up.children())
    ended = trivium(up.state_dir, "doctor", "--json")
    report = json.loads(ended.stdout)
    assert report["problems"] == []
    assert {item["service"] for item in report["services"]} == {"slm", "llm", "orchestrator", "gateway"}


def test_answers_are_the_reference_decoding_by_entropy_and_name_the_rule(
    up: RunningUp, reference_pair: LoadedPair
) -> None:
    rule = ChosenRule.of(EntropyRule(), {"threshold": THRESHOLD})
    samples = [draw_sample(FIRST_HELD_OUT + index) for index in range(NUM_PROMPTS)]
    prompts = [tuple(render_prompt(reference_pair.tokenizer, sample.query)) for sample in samples]
    written = set()
    with Client(up.address) as client:
        for reference in reference_decodings(reference_pair, prompts, [rule]):
            answer = Completion()
            for response in client.generate(
                tokens_request(reference.prompt_token_ids, Options(max_new_tokens=MAX_NEW_TOKENS))
            ):
                answer.add(response)
            assert_is_reference(answer, reference)
            written |= set(answer.from_llm)
            used = answer.usage.used_rule
            assert (used.rule.name, used.version) == ("entropy", rule.rule.version)
            assert dict(used.rule.parameters) == {"threshold": THRESHOLD}
    assert written == {False, True}


def test_budget_is_resolved_by_the_sweep_of_the_pair_file(up: RunningUp) -> None:
    low, high = (
        json.loads(trivium(up.state_dir, "generate", "--json", "--target-llm-usage", target, QUESTION).stdout)
        for target in ("0.05", "0.5")
    )
    assert 0 < high["usage"]["threshold"] < low["usage"]["threshold"]


def test_rule_that_needs_a_router_is_refused_in_one_line_and_the_pair_serves_on(up: RunningUp) -> None:
    ended = trivium(up.state_dir, "generate", "--rule", "router", QUESTION)
    assert ended.returncode == 1
    assert "rule: router needs a router, and this pair has none; it can be served with entropy" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert trivium(up.state_dir, "generate", "--rule", "margin", QUESTION).returncode == 0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("router", "error: pair bare: rule: router needs a router, and this pair has none"),
        ("entrophy", "error: pair bare: rule: no rule 'entrophy' is installed"),
        ("entropy:threshold=-1", "error: pair bare: rule.parameters.threshold: must be finite, at least 0"),
        ("entropy:0.7", "error: rule: expected NAME or NAME:PARAMETER=NUMBER"),
    ],
)
def test_rule_that_can_not_be_had_is_refused_before_anything_starts(
    pair_file: Path, rule: str, message: str, tmp_path: Path
) -> None:
    ended = trivium(tmp_path, "up", "--pair", str(pair_file), "--port", "0", "--http-port", "0", "--rule", rule)
    assert ended.returncode == 1
    assert ended.stderr.startswith(message)
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.glob("logs/*"))
