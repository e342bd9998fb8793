"""Turns a pair file into the command lines of its services.

Owns which field of a pair becomes which flag. Starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from services.cli.errors import CliError
from services.common.pair import ModelSection, Pair

DRAIN_TIMEOUT_S = 0.4
"""Seconds that running answers may take after Ctrl-C."""


@dataclass(frozen=True, slots=True)
class ServiceCommand:
    """How one service is started.

    Args:
        name: The service, e.g. "slm".
        module: What `python -m` runs.
        arguments: Its flags, without host and port.
        secrets: Settings that a command line would show to every user of the machine, as environment variables.
    """

    name: str
    module: str
    arguments: list[str]
    secrets: Mapping[str, str] = field(default_factory=dict)


def with_choices(
    pair: Pair, *, engine: str | None = None, router_checkpoint: str | None = None, allow_other_slm: bool = False
) -> Pair:
    """Replaces what the command line chooses over the pair file.

    Args:
        pair: From the file.
        engine: "transformers" or "sglang" for both models; None keeps the file's.
        router_checkpoint: Directory of the router; None keeps the file's.
        allow_other_slm: Serve it before an SLM of other weights than it was trained with; False keeps the file's.

    Raises:
        CliError: There is no router checkpoint then.
    """
    if engine is not None:

        def chosen(section: ModelSection) -> ModelSection:
            return section.model_copy(update={"engine": section.engine.model_copy(update={"name": engine})})

        pair = pair.model_copy(update={"slm": chosen(pair.slm), "llm": chosen(pair.llm)})
    if router_checkpoint is not None:
        pair = pair.model_copy(update={"router": pair.router.model_copy(update={"checkpoint": router_checkpoint})})
    if allow_other_slm:
        pair = pair.model_copy(update={"router": pair.router.model_copy(update={"allow_other_slm": True})})
    if pair.router.checkpoint is None:
        published = (
            f" One is published at {pair.router.published}: `trivium import-router` reads it."
            if pair.router.published
            else ""
        )
        raise CliError(f"pair {pair.name}: no router ships with it: give --router-checkpoint.{published}")
    return pair


def backend_commands(pair: Pair) -> list[ServiceCommand]:
    """The services that wait for no other."""
    assert pair.router.checkpoint is not None
    router = ["--checkpoint", pair.router.checkpoint]
    if PurePath(pair.slm.model).is_absolute():
        router += ["--slm-model", pair.slm.model]
    router += _insisting_flags(pair)
    return [
        ServiceCommand("slm", "services.slm", _model_flags(pair.slm)),
        ServiceCommand("router", "router_service", [*router, *_common_flags()]),
        ServiceCommand("llm", "services.llm", _model_flags(pair.llm)),
    ]


def orchestrator_command(pair: Pair, addresses: Mapping[str, str], redis_url: str) -> ServiceCommand:
    """The service that needs the addresses of the others."""
    peers = [part for name in ("slm", "router", "llm") for part in (f"--{name}", addresses[name])]
    arguments = [*peers, "--tokenizer", pair.slm.model, *_common_flags(), *_insisting_flags(pair)]
    if pair.slm.revision:
        arguments += ["--tokenizer-revision", pair.slm.revision]
    # The URL may hold a password.
    secrets = {"TRIVIUM_ORCHESTRATOR_REDIS_URL": redis_url}
    return ServiceCommand("orchestrator", "services.orchestrator", arguments, secrets)


def gateway_command(pair: Pair, orchestrator_address: str) -> ServiceCommand:
    """The service that speaks HTTP before the orchestrator."""
    arguments = ["--orchestrator", orchestrator_address, "--model-name", pair.name, *_common_flags()]
    return ServiceCommand("gateway", "services.gateway", arguments)


def _model_flags(section: ModelSection) -> list[str]:
    flags = ["--model", section.model]
    if section.revision:
        flags += ["--revision", section.revision]
    for key, value in section.engine.model_dump(exclude_none=True).items():
        flags += ["--engine" if key == "name" else f"--{key.replace('_', '-')}", str(value)]
    return [*flags, *_common_flags()]


def _insisting_flags(pair: Pair) -> list[str]:
    return ["--allow-other-slm"] if pair.router.allow_other_slm else []


def _common_flags() -> list[str]:
    return ["--drain-timeout-s", str(DRAIN_TIMEOUT_S)]
