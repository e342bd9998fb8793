"""Turns a pair file into the command lines of its services.

Owns which field of a pair becomes which flag, and whether it is served with a router. Starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from services.cli.errors import CliError
from services.common.pair import ModelSection, Pair, RouterSection
from services.common.rule_spec import RuleSpec
from services.rules.registry import Rules
from services.rules.rule import Evidence, RuleError

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
    pair: Pair,
    *,
    engine: str | None = None,
    router_checkpoint: str | None = None,
    allow_other_slm: bool = False,
    rule: RuleSpec | None = None,
) -> Pair:
    """Replaces what the command line chooses over the pair file.

    Args:
        pair: From the file.
        engine: "transformers" or "sglang" for both models; None keeps the file's.
        router_checkpoint: Directory of the router; None keeps the file's.
        allow_other_slm: Serve it before an SLM of other weights than it was trained with; False keeps the file's.
        rule: The rule of requests that name none; None keeps the file's.

    Returns:
        The pair, its router with a checkpoint, or without a router where it has none and the rule asks none.

    Raises:
        CliError: The rule isn't installed, or there is no router checkpoint then and the rule needs one.
    """
    if engine is not None:

        def chosen(section: ModelSection) -> ModelSection:
            return section.model_copy(update={"engine": section.engine.model_copy(update={"name": engine})})

        pair = pair.model_copy(update={"slm": chosen(pair.slm), "llm": chosen(pair.llm)})
    router = pair.router
    if router_checkpoint is not None:
        router = (router or RouterSection()).model_copy(update={"checkpoint": router_checkpoint})
    if router is not None and allow_other_slm:
        router = router.model_copy(update={"allow_other_slm": True})
    pair = pair.model_copy(update={"router": router, "rule": rule or pair.rule})
    if router is None and pair.rule is None:
        raise CliError(
            f"pair {pair.name}: rule: it has no router, so it needs a rule that asks none: `rule: entropy` in its "
            "file, or --rule entropy"
        )
    if router is not None and router.checkpoint is None:
        if _asks_router(pair):
            raise CliError(_no_checkpoint(pair.name, router))
        pair = pair.model_copy(update={"router": None})
    return pair


def _asks_router(pair: Pair) -> bool:
    try:
        return Rules.installed().named(pair.default_rule.name).evidence is Evidence.ROUTER
    except RuleError as error:
        raise CliError(f"pair {pair.name}: {error}") from error


def _no_checkpoint(name: str, router: RouterSection) -> str:
    told = f"pair {name}: no router ships with it: give --router-checkpoint, or --rule entropy, which asks none."
    if not router.published:
        return told
    return f"{told} One is published at {router.published}: `trivium import-router` reads it."


def backend_commands(pair: Pair) -> list[ServiceCommand]:
    """The services that wait for no other, of a pair that `with_choices` returned."""
    slm = ServiceCommand("slm", "services.slm", _model_flags(pair.slm))
    llm = ServiceCommand("llm", "services.llm", _model_flags(pair.llm))
    if pair.router is None:
        return [slm, llm]
    assert pair.router.checkpoint is not None
    flags = ["--checkpoint", pair.router.checkpoint]
    if PurePath(pair.slm.model).is_absolute():
        flags += ["--slm-model", pair.slm.model]
    router = ServiceCommand("router", "router_service", [*flags, *_insisting_flags(pair), *_common_flags()])
    return [slm, router, llm]


def orchestrator_command(pair: Pair, addresses: Mapping[str, str], redis_url: str) -> ServiceCommand:
    """The service that needs the addresses of the others."""
    names = ("slm", "llm") if pair.router is None else ("slm", "router", "llm")
    peers = [part for name in names for part in (f"--{name}", addresses[name])]
    arguments = [*peers, "--tokenizer", pair.slm.model, *_common_flags(), *_insisting_flags(pair)]
    if pair.rule is not None:
        arguments += ["--rule", str(pair.rule)]
    for path in pair.rule_sweeps:
        arguments += ["--rule-sweeps", path]
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
    return ["--allow-other-slm"] if pair.router is not None and pair.router.allow_other_slm else []


def _common_flags() -> list[str]:
    return ["--drain-timeout-s", str(DRAIN_TIMEOUT_S)]
