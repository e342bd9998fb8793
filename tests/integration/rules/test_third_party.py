"""A rule of another package is found, held to the suite, and served; one that breaks the suite is refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from trivium.v1 import orchestrator_pb2, orchestrator_pb2_grpc

from evaluation.exactness import Reference, suite_prompts
from evaluation.in_process import CachedModel, DecodedToken
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair
from services.common.serving.channels import open_channel
from tests.integration.harness.completions import assert_is_reference, generate, request_for
from tests.integration.harness.pair import RunningPair
from tests.integration.harness.processes import Process

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

# As a float32 holds it.
THRESHOLD, PATIENCE = 0.375, 6
NUM_PROMPTS, DEPTHS = 6, (0, 4, 16)

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "impatient-rules"
version = "0.3.0"

[project.entry-points."trivium.rules"]
impatient = "impatient_rules:Impatient"
moody = "impatient_rules:Moody"
lost = "impatient_rules:Lost"

[tool.hatch.build.targets.wheel]
include = ["impatient_rules.py"]
"""

MODULE = '''\
"""Routing rules, as somebody else writes them."""

import numpy as np

from services.rules.decider import Stateless, Verdict
from services.rules.rule import Evidence, Parameter


class Impatient:
    """Asks where the SLM's likeliest token is unlikely, and when the LLM hasn't written for a while."""

    name = "impatient"
    version = "7"
    evidence = Evidence.SLM
    needs_llm = True
    parameters = {
        "threshold": Parameter("Ask the LLM at 1 - p of at least this.", default=0.4),
        "patience": Parameter("Tokens without the LLM's word.", default=6, least=1, most=1000, whole=True),
    }

    def scores(self, rows):
        logits = rows.top_logits.astype(np.float64)
        weights = np.exp(logits - logits[:, :1])
        return (1 - weights[:, 0] / weights.sum(axis=-1)).astype(np.float32)

    def decider(self, parameters):
        return ImpatientDecider(parameters["threshold"], parameters["patience"])


class ImpatientDecider:
    in_order = True

    def __init__(self, threshold, patience):
        self._threshold, self._patience = threshold, patience
        self._num_since = 0

    def verdict(self, draft):
        asks = draft.score >= self._threshold or self._num_since >= self._patience
        return Verdict.ASK if asks else Verdict.ACCEPT

    def accepted(self, token_id, *, by_llm, score):
        self._num_since = 0 if by_llm else self._num_since + 1


class Moody(Impatient):
    """Its scores depend on what else is in the step."""

    name = "moody"

    def scores(self, rows):
        return super().scores(rows) - np.float32(len(rows.token_ids) / 1000)
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package is installed into."""
    source, site = tmp_path_factory.mktemp("impatient-rules"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "impatient_rules.py").write_text(MODULE)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    installed = subprocess.run([*pip, "--target", site, source], capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    return site


def python_path(site: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join((str(site), *sys.path))}


def trivium(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.cli", "rules", *arguments]
    environ = {**os.environ, **python_path(site), "COLUMNS": "200"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_rules_of_a_package_are_listed_and_what_it_lacks_is_named(site: Path) -> None:
    listed = trivium(site, "list")
    assert listed.returncode == 0, listed.stderr
    for cells in (("impatient", "7", "slm"), ("moody", "7", "slm"), ("router", "1", "router")):
        assert any(
            tuple(cell.strip() for cell in line.split("│")[1:4]) == cells for line in listed.stdout.splitlines()
        )
    assert "patience, 1 to 1000, whole, default 6: Tokens without the LLM's word." in listed.stdout
    assert "lost can't be used: impatient-rules brings it as impatient_rules:Lost: AttributeError" in listed.stdout


def test_rule_that_keeps_its_promises_passes_the_check(site: Path) -> None:
    checked = trivium(site, "check", "impatient")
    assert checked.returncode == 0, checked.stderr
    assert "rule impatient 7 keeps what every rule must" in checked.stderr


def test_rule_whose_scores_depend_on_the_batch_is_refused_by_name(site: Path) -> None:
    checked = trivium(site, "check", "moody")
    assert checked.returncode == 1
    [error] = [line for line in checked.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: rule moody: scores: row 0 of 2 has ")
    assert " alone; for example ScoredBatch(" in error
    assert "Traceback" not in checked.stderr


def test_rule_that_cannot_be_loaded_is_refused_with_the_reason(site: Path) -> None:
    checked = trivium(site, "check", "lost")
    assert checked.returncode == 1
    assert checked.stderr.startswith("error: rule: 'lost' can't be used: impatient-rules brings it as ")


@torch.inference_mode()
def reference_decoding(pair: LoadedPair, prompt: Sequence[int]) -> Reference:
    """The law of `Impatient`, one token at a time."""
    slm, llm = CachedModel(pair.slm), CachedModel(pair.llm)
    tokens, completion, num_since = list(prompt), list[DecodedToken](), 0
    while len(completion) < MAX_NEW_TOKENS:
        logits, _ = slm.next_logits(tokens)
        top_logits = torch.topk(logits[0], 100).values.double()
        score = float(np.float32(1 - torch.softmax(top_logits, dim=0)[0]))
        margins = [float(top_logits[0] - top_logits[1])]
        token_id, by_llm = int(logits.argmax()), score >= THRESHOLD or num_since >= PATIENCE
        if num_since < PATIENCE:
            margins.append(abs(score - THRESHOLD))
        if by_llm:
            llm_logits, _ = llm.next_logits(tokens)
            first, second = torch.topk(llm_logits[0], 2).values.tolist()
            margins.append(first - second)
            token_id = int(llm_logits.argmax())
        num_since = 0 if by_llm else num_since + 1
        tokens.append(token_id)
        completion.append(DecodedToken(token_id, by_llm, score, min(margins)))
        if token_id == pair.tokenizer.eos_token_id:
            break
    # Requests name the threshold alone: the rule is the server's default.
    return Reference(tuple(prompt), pair.rule(threshold=THRESHOLD), tuple(completion))


async def test_rule_of_a_package_is_served_exactly_and_named_with_its_version(
    site: Path, pair: RunningPair, reference_pair: LoadedPair, tmp_path: Path
) -> None:
    references = [reference_decoding(reference_pair, prompt) for prompt in suite_prompts(reference_pair, NUM_PROMPTS)]
    orchestrator = Process(
        "services.orchestrator", "--tokenizer", str(WEIGHTS_DIR / "slm"), "--slm", pair.slm.address,
        "--router", pair.router.address, "--llm", pair.both_llms, "--rule", f"impatient:patience={PATIENCE}",
        directory=tmp_path, environ=python_path(site),
    )  # fmt: skip
    try:
        await orchestrator.until_serving()
        async with open_channel(orchestrator.target) as channel:
            stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
            info = await stub.GetServerInfo(orchestrator_pb2.OrchestratorServiceGetServerInfoRequest())
            grid = [(reference, depth) for reference in references for depth in DEPTHS]
            requests = [request_for(reference, run_ahead_depth=depth) for reference, depth in grid]
            completions = await asyncio.gather(*(generate(stub, request) for request in requests))
    finally:
        await orchestrator.stop()

    [rule] = [rule for rule in info.rules if rule.name == "impatient"]
    assert (rule.version, rule.evidence, rule.is_default) == ("7", orchestrator_pb2.RULE_EVIDENCE_SLM, True)
    assert "rule lost can't be used: impatient-rules brings it as " in orchestrator.log
    for (reference, _), completion in zip(grid, completions, strict=True):
        assert_is_reference(completion, reference)
        usage = completion.usage
        used = usage.used_rule
        assert (used.rule.name, used.version) == ("impatient", "7")
        assert dict(used.rule.parameters) == {"threshold": THRESHOLD, "patience": PATIENCE}
    from_llm = [token.from_llm for reference in references for token in reference.completion]
    assert 0.1 < np.mean(from_llm) < 0.9
