"""What the processes count is what happens, and what the operators' page says of it is true."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from evaluation.exactness import Reference
from evaluation.reference.pair import WEIGHTS_DIR
from services.common.access.tenant import Reason
from services.orchestrator.learning.shadow import Outcome
from services.orchestrator.sequences.counts import rule_label
from services.rules.registry import Rules
from tests.integration.harness.completions import client, cycled, generate, request_for
from tests.integration.harness.pair import Replica, RunningPair, running
from tests.ports import free_port
from tests.scraping import Scrape, documented, scrape, served

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SERVICES = ("orchestrator", "slm", "llm", "router")
NUM_REQUESTS = 16


@asynccontextmanager
async def _metered(pair: RunningPair, tmp_path: Path) -> AsyncIterator[tuple[Replica, dict[str, int]]]:
    """A pair of its own: the orchestrator, and where each service's metrics are."""
    ports = {service: free_port() for service in SERVICES}

    def replica(service: str, module: str, *arguments: str) -> Replica:
        return Replica(module, "--metrics-port", str(ports[service]), *arguments, directory=tmp_path / service)

    slm = replica("slm", "services.slm", "--model", str(WEIGHTS_DIR / "slm"), "--max-batch-size", "4")
    llm = replica("llm", "services.llm", "--model", str(WEIGHTS_DIR / "llm"), "--max-batch-size", "4")
    router = replica(
        "router", "router_service", "--checkpoint", str(WEIGHTS_DIR / "router"),
        "--slm-model", str(WEIGHTS_DIR / "slm"),
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        for backend in (slm, llm, router):
            backend.launch()
            stack.callback(_kill, backend)
        for backend in (slm, llm, router):
            await backend.until_serving()
        metered = ("--metrics-port", str(ports["orchestrator"]), "--redis-url", pair.redis.url)
        front = pair.orchestrator("metered", *metered, slm=slm.address, llm=llm.address, router=router.address)
        await stack.enter_async_context(running(front))
        yield front, ports


def _kill(replica: Replica) -> None:
    replica.process.kill()


async def _scrapes(ports: dict[str, int]) -> dict[str, Scrape]:
    return {service: await asyncio.to_thread(scrape, port) for service, port in ports.items()}


def _assert_labels_tell_nothing_of_what_is_written(pages: list[Scrape]) -> None:
    values = {value for page in pages for value in page.label_values}
    buckets = {value for value in values if re.fullmatch(r"[\d.]+|\+Inf", value)}
    authors = {"slm", "llm", "slm_fallback", "slm_confirmed"}
    names = {*authors, "router", *(f"trivium.v1.{name.title()}Service" for name in SERVICES)}
    rules = {rule_label(rule) for rule in Rules()}
    reasons = {reason.value for reason in Reason}
    outcomes = {*(outcome.value for outcome in Outcome), "kept", "dropped"}
    # Besides, the id of each replica.
    assert len(values - buckets - names - rules - reasons - outcomes) == len(SERVICES)


async def test_metrics_move_with_the_load_and_agree_with_what_answers_say(
    pair: RunningPair, routed_references: list[Reference], tmp_path: Path
) -> None:
    references = cycled(routed_references, NUM_REQUESTS)
    async with _metered(pair, tmp_path) as (front, ports), client(front) as stub:
        before = await _scrapes(ports)
        answering = asyncio.gather(*(generate(stub, request_for(reference)) for reference in references))
        during = []
        while not answering.done():
            during.append(await _scrapes(ports))
            await asyncio.sleep(0.02)
        usages = [completion.usage for completion in await answering]
        # The orchestrator and its peers free a request just after its last message.
        await asyncio.sleep(0.5)
        after = await _scrapes(ports)

    for service in SERVICES:
        assert served(after[service]) == documented(service)
        assert after[service].content_type.startswith("text/plain; version=")

    _assert_labels_tell_nothing_of_what_is_written(list(after.values()))
    peaks = {
        name: max(pages[service].values[name] for pages in during)
        for service in SERVICES
        for name, kind in documented(service).items()
        if kind == "gauge" and name in after[service].values
    }
    for name in (
        "trivium_orchestrator_active_requests",
        "trivium_slm_active_sequences",
        "trivium_slm_waiting_sequences",
        "trivium_llm_active_sequences",
        "trivium_llm_waiting_sequences",
        "trivium_llm_waiting_query_positions",
        "trivium_slm_kv_tokens_used",
        "trivium_llm_kv_tokens_used",
        "trivium_router_batch_rows",
    ):
        assert peaks[name] > 0, name
        [service] = [service for service in SERVICES if name.startswith(f"trivium_{service}_")]
        assert before[service].values[name] == after[service].values[name] == 0, name
    assert peaks["trivium_orchestrator_active_requests"] <= NUM_REQUESTS
    # Each of the two models takes 4 sequences at once.
    assert peaks["trivium_slm_active_sequences"] + peaks["trivium_slm_waiting_sequences"] > 4

    orchestrator, slm, llm, router = (after[service] for service in SERVICES)
    num_llm = sum(usage.num_llm_tokens for usage in usages)
    num_tokens = sum(usage.num_completion_tokens for usage in usages)
    assert orchestrator.values["trivium_orchestrator_tokens_total{author=llm}"] == num_llm > 0
    assert orchestrator.values["trivium_orchestrator_tokens_total{author=slm}"] == num_tokens - num_llm > 0
    assert orchestrator.values["trivium_orchestrator_tokens_total{author=slm_fallback}"] == 0
    assert orchestrator.values["trivium_orchestrator_rule_tokens_total{rule=router@1}"] == num_tokens
    assert orchestrator.values["trivium_orchestrator_rule_llm_tokens_total{rule=router@1}"] == num_llm
    assert orchestrator.values["trivium_orchestrator_rule_tokens_total{rule=entropy@1}"] == 0
    num_wasted = sum(usage.num_drafts_dropped for usage in usages)
    assert orchestrator.values["trivium_orchestrator_wasted_drafts_total"] == num_wasted > 0
    assert orchestrator.values["trivium_orchestrator_finished_requests_total"] == NUM_REQUESTS
    assert orchestrator.values["trivium_orchestrator_prefix_index_available"] == 1
    for service in ("slm", "router", "llm"):
        assert orchestrator.values[f"trivium_orchestrator_replicas{{service={service}}}"] == 1
        assert orchestrator.values[f"trivium_orchestrator_failovers_total{{service={service}}}"] == 0
    assert (
        slm.values["trivium_slm_drafts_total"] >= router.values["trivium_router_rows_total"] >= num_tokens - num_llm
    )
    assert 0 < slm.values["trivium_slm_drafts_rewound_total"] < slm.values["trivium_slm_drafts_total"]
    assert llm.values["trivium_llm_positions_answered_total"] >= num_llm
    assert 0 < llm.values["trivium_llm_question_seconds_count"] <= llm.values["trivium_llm_positions_answered_total"]
    assert llm.values["trivium_llm_rows_total"] <= 4 * llm.values["trivium_llm_passes_total"]
