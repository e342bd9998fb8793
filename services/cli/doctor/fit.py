"""Whether the services that answered belong to one pair.

Owns the comparison of what they say of themselves. Every misfit names both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

from trivium.v1 import common_pb2, router_pb2
from trivium.v1.llm_pb2 import LlmServiceGetServerInfoResponse
from trivium.v1.orchestrator_pb2 import OrchestratorServiceGetServerInfoResponse
from trivium.v1.router_pb2 import RouterServiceGetServerInfoResponse
from trivium.v1.slm_pb2 import SlmServiceGetServerInfoResponse

from services.cli.pair.probe import Probe
from services.common.weights import are_other_weights


def misfits(probes: Sequence[Probe], *, allow_other_slm: bool = False) -> list[str]:
    """Compares every two services that answered.

    Args:
        probes: What the services answered.
        allow_other_slm: A router before an SLM of other weights than it was trained with is no misfit.

    Returns:
        One sentence a misfit; none where too few answered to compare.
    """
    slm: common_pb2.ModelInfo | None = None
    llm: common_pb2.ModelInfo | None = None
    router: router_pb2.RouterInfo | None = None
    seen: OrchestratorServiceGetServerInfoResponse | None = None
    for probe in probes:
        match probe.info:
            case SlmServiceGetServerInfoResponse():
                slm = probe.info.model
            case LlmServiceGetServerInfoResponse():
                llm = probe.info.model
            case RouterServiceGetServerInfoResponse():
                router = probe.info.router
            case OrchestratorServiceGetServerInfoResponse():
                seen = probe.info
    found = []
    if slm and llm:
        found += _models(slm, llm)
    if slm and router:
        found += _router(slm, router, allow_other_slm)
    if seen:
        found += _orchestrator(seen, slm, llm, router)
    return found


def _models(slm: common_pb2.ModelInfo, llm: common_pb2.ModelInfo) -> list[str]:
    if slm.tokenizer_sha256 != llm.tokenizer_sha256:
        return [
            f"tokenizers differ: slm {slm.model_id} has {_short(slm.tokenizer_sha256)}, "
            f"llm {llm.model_id} has {_short(llm.tokenizer_sha256)}"
        ]
    return []


def _router(slm: common_pb2.ModelInfo, router: router_pb2.RouterInfo, allow_other_slm: bool) -> list[str]:
    sides = f"router {router.checkpoint} (trained for {router.slm_model_id}) and slm {slm.model_id}"
    compared = (
        ("hidden_size", router.hidden_size, slm.hidden_size),
        ("vocab_size", router.vocab_size, slm.vocab_size),
        ("tokenizer_sha256", _short(router.tokenizer_sha256), _short(slm.tokenizer_sha256)),
    )
    found = [f"{sides} don't fit: {name} {one} against {other}" for name, one, other in compared if one != other]
    if not allow_other_slm and are_other_weights(router.slm_revision, slm.weights_revision):
        found.append(f"{sides} don't fit: weights {router.slm_revision} against {slm.weights_revision}")
    return found


def _orchestrator(
    seen: OrchestratorServiceGetServerInfoResponse,
    slm: common_pb2.ModelInfo | None,
    llm: common_pb2.ModelInfo | None,
    router: router_pb2.RouterInfo | None,
) -> list[str]:
    used_router = seen.router.weights_sha256 if seen.HasField("router") else "none"
    compared = (
        ("slm", seen.slm.model_id, slm and slm.model_id),
        ("llm", seen.llm.model_id, llm and llm.model_id),
        ("router", used_router, router and router.weights_sha256),
    )
    return [
        f"the orchestrator uses another {name} than the one asked: {theirs} against {ours}"
        for name, theirs, ours in compared
        if ours is not None and theirs != ours
    ]


def _short(digest: str) -> str:
    return digest[:12]
