"""From a published router's file to a pair that serves it, and a router before an SLM that it doesn't belong to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import grpc
import pytest
import torch
from trivium.v1 import orchestrator_pb2

from evaluation.exactness import reference_decodings
from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair
from labeler_jobs.models.huggingface import render_prompt
from router_service.checkpoint import RouterCheckpoint, load_checkpoint, save_checkpoint
from router_service.checkpoint_files import DESCRIPTION_FILE
from router_service.description import read_description
from services.cli.__main__ import app
from tests.integration.harness.completions import (
    FIRST_HELD_OUT,
    assert_is_reference,
    client,
    generate,
    request_for,
    status_of,
)
from tests.integration.harness.pair import Replica, RunningPair, router_load, running
from tests.integration.harness.processes import run_to_end
from tests.unit.router_service.published.made_files import made_content, made_state

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SLM = WEIGHTS_DIR / "slm"
OTHER_WEIGHTS = "0123456789abcdef"


def some_request() -> orchestrator_pb2.GenerateRequest:
    return orchestrator_pb2.GenerateRequest(
        token_ids=orchestrator_pb2.TokenIds(token_ids=[5, 6, 7]), max_new_tokens=8
    )


async def test_imported_router_serves_its_reference_decoding_and_refuses_budgets_until_it_has_a_sweep(
    pair: RunningPair, reference_pair: LoadedPair, tmp_path: Path
) -> None:
    out = tmp_path / "router"
    torch.save(made_content(made_state(24, hidden=32)), tmp_path / "default_router.pt")
    file, slm = str(tmp_path / "default_router.pt"), str(SLM)
    app(["import-router", file, "--slm", slm, "--out", str(out)], standalone_mode=False)
    checkpoint = load_checkpoint(out)
    imported = dataclasses.replace(reference_pair, router=checkpoint.router, description=checkpoint.description)
    samples = [draw_sample(FIRST_HELD_OUT + 50 + index) for index in range(6)]
    prompts = [tuple(render_prompt(reference_pair.tokenizer, sample.query)) for sample in samples]
    rules = [imported.rule(threshold=threshold) for threshold in (0.65, 0.75, 0.85)]
    references = reference_decodings(imported, prompts, rules)
    arguments = ("--checkpoint", str(out), "--slm-model", slm)
    async with running(Replica("router_service", *arguments, directory=tmp_path / "process")) as router:
        front = pair.orchestrator("front-imported", router=router.address)
        async with running(front), client(front) as stub:
            completions = [await generate(stub, request_for(reference)) for reference in references]
            asked = request_for(references[0])
            asked.target_llm_usage = 0.1
            error = await status_of(stub.Generate(asked))
            asked.ClearField("routing")
            by_default = await generate(stub, asked)
    for completion, reference in zip(completions, references, strict=True):
        assert_is_reference(completion, reference)
    written = [from_llm for completion in completions for from_llm in completion.from_llm]
    assert 0.02 < sum(written) / len(written) < 0.98
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert str(error.details()).startswith("target_llm_usage: ")
    assert "have `trivium calibrate` make a sweep" in str(error.details())
    assert by_default.usage.threshold == pytest.approx(0.3861)


@pytest.fixture
def foreign_router(tmp_path: Path) -> Path:
    """The shipped router, as if it had been trained with other weights of the same sizes; its embedding with it."""
    checkpoint = load_checkpoint(WEIGHTS_DIR / "router")
    slm = dataclasses.replace(checkpoint.description.slm, revision=OTHER_WEIGHTS)
    description = dataclasses.replace(checkpoint.description, slm=slm)
    embedding = torch.zeros(slm.vocab_size, slm.hidden_size)
    save_checkpoint(RouterCheckpoint(checkpoint.router, description, embedding), tmp_path / "foreign")
    return tmp_path / "foreign"


async def test_orchestrator_keeps_a_router_of_other_slm_weights_out_unless_a_person_insists(
    pair: RunningPair, foreign_router: Path, tmp_path: Path
) -> None:
    own = read_description(WEIGHTS_DIR / "router" / DESCRIPTION_FILE).slm.revision
    async with running(
        Replica("router_service", "--checkpoint", str(foreign_router), directory=tmp_path / "process")
    ) as router:
        refusing = pair.orchestrator("front-refusing", router=router.address)
        refusing.launch()
        try:
            await refusing.until_listening()
            async with client(refusing) as stub:
                told = ""
                while "weights_revision" not in told:
                    told = str((await status_of(stub.Generate(some_request()))).details())
        finally:
            refusing.process.kill()
        insisting = pair.orchestrator("front-insisting", "--allow-other-slm", router=router.address)
        async with running(insisting), client(insisting) as stub:
            answer = await generate(stub, some_request())
    assert own in told
    assert OTHER_WEIGHTS in told
    assert "--allow-other-slm" in told
    assert answer.token_ids


async def test_router_service_refuses_an_slm_of_other_weights_in_one_line_unless_a_person_insists(
    foreign_router: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(foreign_router)
    save_checkpoint(RouterCheckpoint(checkpoint.router, checkpoint.description), foreign_router)
    own = read_description(WEIGHTS_DIR / "router" / DESCRIPTION_FILE).slm.revision
    arguments = ("--checkpoint", str(foreign_router), "--slm-model", str(SLM))
    code, log = await run_to_end("router_service", *arguments, directory=tmp_path / "refusing")
    assert (code, own in log, OTHER_WEIGHTS in log, "Traceback" in log) == (1, True, True, False)
    insisting = Replica("router_service", *arguments, "--allow-other-slm", directory=tmp_path / "insisting")
    async with running(insisting):
        assert (await router_load(insisting)).num_rows_waiting == 0
