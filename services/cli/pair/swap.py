"""`trivium router swap`: another router for the pair that runs on this machine, while it serves.

Owns the wait until the router and the orchestrator say that they serve it, and the way back where they don't.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from trivium.v1 import orchestrator_pb2, router_pb2

from router_service.checkpoint_files import CHECKPOINT_FILES
from services.cli.console import note
from services.cli.errors import CliError
from services.cli.pair.probe import probe
from services.cli.pair.router_link import lead_to, router_link
from services.cli.pair.state import running_pair

_POLL_S = 0.2
_PROBE_TIMEOUT_S = 2.0

_Found = TypeVar("_Found")


def run_swap(checkpoint: Path, *, state_dir: Path, timeout_s: float) -> None:
    """Has the running pair serve new requests with another router.

    Args:
        checkpoint: Its directory.
        state_dir: Of the pair.
        timeout_s: Seconds until it has to be served.

    Raises:
        CliError: No pair with a router runs here, or the router can't be served; the old one serves on.
    """
    for name in CHECKPOINT_FILES:
        if not (checkpoint / name).is_file():
            raise CliError(f"{checkpoint}: holds no {name}, which a router's checkpoint has")
    state = running_pair(state_dir)
    link = router_link(state_dir)
    if state is None or "router" not in state.addresses or not link.is_symlink():
        raise CliError(f"no pair with a router runs here ({state_dir}): start one with `trivium up`")
    old, new = link.resolve(), checkpoint.resolve()
    deadline = time.monotonic() + timeout_s
    lead_to(link, new)
    try:
        router = _until_served(state.addresses["router"], new, deadline)
        _until_new_requests_get(state.addresses["orchestrator"], router, deadline)
    except BaseException:
        lead_to(link, old)
        raise
    note(
        f"new requests get the router of {new}, threshold {router.default_threshold:.4g}; those that run keep theirs"
    )


def _until_served(address: str, checkpoint: Path, deadline: float) -> router_pb2.RouterInfo:
    def is_served() -> router_pb2.RouterInfo | None:
        info = cast(router_pb2.RouterServiceGetServerInfoResponse | None, _info("router", address))
        if info is not None and info.refused_checkpoint:
            raise CliError(f"the old router serves on: {info.refused_checkpoint}")
        return info.router if info is not None and Path(info.router.checkpoint) == checkpoint else None

    return _await(is_served, deadline, "the router hasn't taken it over")


def _until_new_requests_get(address: str, router: router_pb2.RouterInfo, deadline: float) -> None:
    def gets_it() -> bool:
        info = cast(orchestrator_pb2.OrchestratorServiceGetServerInfoResponse | None, _info("orchestrator", address))
        return info is not None and info.router.weights_sha256 == router.weights_sha256

    _await(lambda: gets_it() or None, deadline, "the orchestrator hasn't heard of it")


def _info(service: str, address: str) -> object:
    return probe(service, address, timeout_s=_PROBE_TIMEOUT_S).info


def _await(find: Callable[[], _Found | None], deadline: float, otherwise: str) -> _Found:
    while (found := find()) is None:
        if time.monotonic() > deadline:
            raise CliError(f"{otherwise} in time; the old one serves on")
        time.sleep(_POLL_S)
    return found
