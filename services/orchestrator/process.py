"""The orchestrator as a process: starts its parts in order, and turns SERVING once the pair is complete."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path

import grpc
from trivium.v1 import common_pb2, orchestrator_pb2_grpc

from services.common.access.keys import Keys
from services.common.errors import PeerUnavailable, TriviumError
from services.common.rule_spec import RuleSpec
from services.common.serving.channels import open_channel
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.telemetry import Telemetry
from services.common.text.tokenizer import load_tokenizer, tokenizer_sha256
from services.orchestrator import metrics
from services.orchestrator.door import KeyDoor
from services.orchestrator.driver import Driver
from services.orchestrator.index.prefix_index import IndexedPair, PrefixIndex
from services.orchestrator.index.redis_link import RedisLink
from services.orchestrator.learning.learning import Learning
from services.orchestrator.learning.sample import Sampler
from services.orchestrator.learning.sample_files import SampleFiles
from services.orchestrator.learning.shadow import Shadow, check_shadow
from services.orchestrator.pair.check import ServedPair
from services.orchestrator.pair.gate import PairGate
from services.orchestrator.pair.rules import ServedRules
from services.orchestrator.replicas.discovery import Resolve, resolve_host
from services.orchestrator.servicer import OrchestratorServicer
from services.orchestrator.settings import OrchestratorSettings
from services.rules.registry import Rules
from services.rules.rule import RuleError


class OrchestratorService:
    """What `services.common.serving.server` runs.

    Args:
        settings: Settings of this process.
        lifecycle: State of this process.
        resolve: Looks up the names among the replicas' addresses.

    Raises:
        ValueError: The tokenizer can't be loaded, the Redis URL can't be read, the keys file, the default rule, the
            shadow's or a sweep can't be used, or the sample's directory can't be written.
    """

    def __init__(self, settings: OrchestratorSettings, lifecycle: Lifecycle, resolve: Resolve = resolve_host) -> None:
        self._lifecycle = lifecycle
        self._keys = Keys(settings.keys_file) if settings.keys_file else None
        self.door = KeyDoor(self._keys) if self._keys else None
        self._drain_timeout_s = settings.drain_timeout_s
        has_router = bool(settings.router)
        rules = Rules.installed()
        self._rules = ServedRules(
            rules,
            RuleSpec.parse(settings.rule),
            [Path(path) for path in settings.rule_sweeps],
            has_router=has_router,
        )
        tokenizer = load_tokenizer(settings.tokenizer, settings.tokenizer_revision)
        self._gate = PairGate(
            tokenizer_sha256(tokenizer),
            len(tokenizer),
            self._on_pair,
            has_router=has_router,
            allow_other_slm=settings.allow_other_slm,
        )
        self._shadow = _shadow(settings, rules)
        self._sample_files = _sample_files(settings, self._gate)
        self._index = PrefixIndex(_redis_link(settings), ttl_s=settings.redis_ttl_s)
        self._driver = Driver(
            settings,
            tokenizer=tokenizer,
            gate=self._gate,
            index=self._index,
            open_channel=partial(
                open_channel,
                max_message_mb=settings.max_message_mb,
                keepalive_s=settings.keepalive_s,
                tls=settings.channel_tls,
            ),
            resolve=resolve,
            default_evidence=self._rules.default.evidence,
            learning=Learning(self._shadow, _sampler(settings, self._sample_files)),
            on_presence=self._on_presence,
        )
        self._servicer = OrchestratorServicer(
            settings,
            lifecycle,
            driver=self._driver,
            gate=self._gate,
            rules=self._rules,
            index=self._index,
            tokenizer=tokenizer,
        )
        self._paired = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._sampling: asyncio.Task[None] | None = None
        self._server: grpc.aio.Server | None = None
        self._closing: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer to the server."""
        self._server = server
        orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(self._servicer, server)

    def instrument(self, telemetry: Telemetry) -> None:
        """Adds the orchestrator's metrics."""
        metrics.instrument(telemetry, self._driver, self._index, self._lifecycle, rules=self._rules, keys=self._keys)
        metrics.instrument_learning(telemetry, self._shadow, self._sample_files)

    async def start(self) -> None:
        """Connects to Redis and all replicas, and waits until the pair is complete."""
        if self._keys:
            self._following = asyncio.create_task(self._keys.follow())
        if self._sample_files:
            self._sampling = asyncio.create_task(self._sample_files.run())
        await self._index.start()
        self._working = asyncio.create_task(self._driver.run())
        paired = asyncio.create_task(self._paired.wait())
        await asyncio.wait({self._working, paired}, return_when=asyncio.FIRST_COMPLETED)
        paired.cancel()

    async def run(self) -> None:
        """Drives all sequences."""
        assert self._working is not None, "started before"
        await self._working

    async def drain(self) -> None:
        """Sends clients away. Running requests end by themselves.

        A client keeps its connection, on which every new request would be refused: told that it goes, it connects
        anew, and a Service leads it to another orchestrator.
        """
        assert self._server is not None, "registered before"
        self._closing = asyncio.create_task(self._server.stop(self._drain_timeout_s))

    async def stop(self) -> None:
        """Closes all streams."""
        tasks = [task for task in (self._working, self._following, self._sampling) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sample_files:
            await self._sample_files.flush()
        await self._index.close()

    def _on_pair(self, outcome: ServedPair | TriviumError) -> None:
        if isinstance(outcome, TriviumError):
            if self._gate.pair is None:
                # Callers learn what doesn't fit, instead of that something is still starting.
                self._lifecycle.explain(outcome)
        else:
            self._index.pair = IndexedPair(outcome.models_identity, outcome.vocab_size)
            self._paired.set()

    def _on_presence(self, missing: str | None) -> None:
        self._telling = asyncio.create_task(self._tell(missing))

    async def _tell(self, missing: str | None) -> None:
        if missing:
            await self._lifecycle.mark_not_ready(PeerUnavailable(missing))
        else:
            await self._lifecycle.mark_ready()


def _shadow(settings: OrchestratorSettings, rules: Rules) -> Shadow | None:
    if not settings.shadow_rule:
        return None
    spec = RuleSpec.parse(settings.shadow_rule)
    try:
        check_shadow(spec, rules, has_router=bool(settings.router))
        return Shadow(rules, spec, settings.shadow_share, random.Random())
    except RuleError as error:
        raise ValueError(f"shadow_rule: {error}") from error


def _sample_files(settings: OrchestratorSettings, gate: PairGate) -> SampleFiles | None:
    def pair() -> tuple[common_pb2.ModelInfo, common_pb2.ModelInfo] | None:
        members = gate.members
        return (members.slm, members.llm) if members.slm and members.llm else None

    if settings.sample_dir is None:
        return None
    return SampleFiles(settings.sample_dir, settings.sample_max_mb * 2**20, pair=pair)


def _sampler(settings: OrchestratorSettings, files: SampleFiles | None) -> Sampler | None:
    return Sampler(settings.sample_share, files.keep, random.Random()) if files else None


def _redis_link(settings: OrchestratorSettings) -> RedisLink | None:
    if settings.redis_url is None:
        return None
    password = settings.redis_password.get_secret_value() if settings.redis_password else None
    return RedisLink(
        settings.redis_url.get_secret_value(), settings.redis_timeout_ms / 1000, password, settings.redis_ca_file
    )
