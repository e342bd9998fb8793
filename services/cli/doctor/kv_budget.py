"""Whether the KV caches hold as many sequences as may run.

Owns the comparison, which is advice: where they don't, the youngest sequences wait for the older ones, and lose
nothing.

How long a sequence is can be told once some have run: the longer of what those that run hold in the mean, and of what
the answers so far were in the mean. Before that, a short question with a short answer is assumed, or the context if
that is shorter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trivium.v1 import common_pb2
from trivium.v1.llm_pb2 import LlmServiceGetServerInfoResponse
from trivium.v1.orchestrator_pb2 import OrchestratorLoad, OrchestratorServiceGetServerInfoResponse
from trivium.v1.slm_pb2 import SlmServiceGetServerInfoResponse

from services.cli.pair.probe import Probe

ASSUMED_LEN = 256
"""Tokens of a short question with a short answer. A model service's own default budget holds 256 of them."""


def kv_advice(probes: Sequence[Probe]) -> list[str]:
    """Compares the budget of each model with the requests that may run.

    Args:
        probes: What the services answered. Without an orchestrator among them there is nothing to compare with.

    Returns:
        A sentence for each budget that is too small.
    """
    return list(_too_small(probes))


def _too_small(probes: Sequence[Probe]) -> Iterator[str]:
    loads = [one.info.load for one in probes if isinstance(one.info, OrchestratorServiceGetServerInfoResponse)]
    for load in loads:
        for one in probes:
            match one.info:
                case SlmServiceGetServerInfoResponse() as info:
                    yield from _advice("slm", info.model, info.load, load, load.num_slm_replicas)
                case LlmServiceGetServerInfoResponse() as info:
                    yield from _advice("llm", info.model, info.load, load, load.num_llm_replicas)


def _advice(
    name: str,
    model: common_pb2.ModelInfo,
    engine: common_pb2.EngineLoad,
    orchestrator: OrchestratorLoad,
    num_replicas: int,
) -> Iterator[str]:
    sequence_len = _sequence_len(model, engine, orchestrator)
    num_fitting = max(1, num_replicas) * engine.num_kv_tokens_capacity // sequence_len
    if engine.num_kv_tokens_capacity and num_fitting < orchestrator.max_active_requests:
        yield (
            f"{name}: {engine.num_kv_tokens_capacity:,} tokens of KV hold {num_fitting} sequences of {sequence_len} "
            f"tokens; {orchestrator.max_active_requests} may run: the youngest will wait. Raise kv_cache_tokens of "
            f"the {name}, or lower max_active_requests of the orchestrator"
        )


def _sequence_len(model: common_pb2.ModelInfo, engine: common_pb2.EngineLoad, orchestrator: OrchestratorLoad) -> int:
    seen = [
        total // count
        for total, count in (
            (engine.num_kv_tokens_used, engine.num_active_sequences),
            (orchestrator.num_tokens_accepted, orchestrator.num_requests_finished),
        )
        if count
    ]
    return max(1, *seen) if seen else min(ASSUMED_LEN, model.context_length or ASSUMED_LEN)
