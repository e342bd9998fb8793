"""`trivium up` with a pair file that has no router: served by entropy, by the processes of both models alone."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from trivium.v1 import orchestrator_pb2 as pb

from evaluation.in_process import NEAR_TIE, CachedModel
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, draw_sample
from evaluation.reference.pair import LoadedPair
from labeler_jobs.models.huggingface import render_prompt
from services.cli.pairs import find_pair
from services.client import Client, Completion, Options, tokens_request
from tests.integration.harness.completions import FIRST_HELD_OUT, NUM_PROMPTS
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


@torch.inference_mode()
def decode(pair: LoadedPair, prompt_token_ids: list[int]) -> list[tuple[int, bool, float]]:
    """The reference decoding of the law: each token, whether the LLM wrote it, and the least of what decided it."""
    slm, llm = CachedModel(pair.slm), CachedModel(pair.llm)
    tokens = list(prompt_token_ids)
    completion: list[tuple[int, bool, float]] = []
    while len(completion) < MAX_NEW_TOKENS:
        logits, _ = slm.next_logits(tokens)
        top = torch.topk(logits[0].double(), 100).values
        entropy = float(torch.special.entr(torch.softmax(top, dim=0)).sum())
        margins = [float(top[0] - top[1]), abs(entropy - THRESHOLD)]
        is_asked = entropy >= THRESHOLD
        if is_asked:
            logits, _ = llm.next_logits(tokens)
            first, second = torch.topk(logits[0], 2).values.tolist()
            margins.append(first - second)
        tokens.append(int(logits.argmax()))
        completion.append((tokens[-1], is_asked, min(margins)))
        if tokens[-1] == pair.tokenizer.eos_token_id:
            break
    return completion


def assert_is_reference(answer: Completion, want: list[tuple[int, bool, float]]) -> None:
    got = [(token.token_id, token.source == pb.TOKEN_SOURCE_LLM) for token in answer.tokens]
    for position, (one, other) in enumerate(itertools.zip_longest(got, want)):
        assert other is not None, f"{len(got)} tokens, {len(want)} expected"
        if one != other[:2]:
            assert other[2] < NEAR_TIE, f"position {position} of {len(want)} differs: {one} against {other}"
            break


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
    written = set()
    with Client(up.address) as client:
        for index in range(NUM_PROMPTS):
            prompt = render_prompt(reference_pair.tokenizer, draw_sample(FIRST_HELD_OUT + index).query)
            answer = client.complete(tokens_request(prompt, Options(max_new_tokens=MAX_NEW_TOKENS)))
            assert_is_reference(answer, decode(reference_pair, prompt))
            written |= {token.source for token in answer.tokens}
            assert (answer.usage.rule.name, answer.usage.rule_version) == ("entropy", "1")
            assert dict(answer.usage.rule.parameters) == {"threshold": THRESHOLD}
    assert written == {pb.TOKEN_SOURCE_SLM, pb.TOKEN_SOURCE_LLM}


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
