"""A pair in this process: real servers and servicers around engines without a model, and a driver before them.

Owns replicas that can be killed and started again on their ports, and the decoding that they have to arrive at.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trivium.v1 import router_pb2

from router_service.serving import servicer as router
from router_service.serving.followed import CheckpointSource
from services.common.serving.channels import open_channel
from services.common.serving.interceptors import CallGuard
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.server import Service, create_server
from services.engines.base import EngineOptions
from services.engines.fakes import FakeLlmEngine, FakeSlmEngine, fake_next_token
from services.llm import servicer as llm
from services.orchestrator.driver import Driver
from services.orchestrator.index.prefix_index import PrefixIndex
from services.orchestrator.learning.learning import Learning
from services.orchestrator.pair.gate import PairGate
from services.orchestrator.replicas.discovery import Resolve, resolve_host
from services.orchestrator.requests.task import GenerationTask
from services.orchestrator.settings import OrchestratorSettings
from services.rules.decider import Draft, Verdict
from services.rules.rule import Evidence
from services.slm import servicer as slm
from tests.rules import router_rule
from tests.serving import ServingSettings, until

VOCAB_SIZE, HIDDEN_SIZE, EOS = 128, 8, 0
TOKENIZER_SHA256 = hashlib.sha256(b"fake").hexdigest()


def divergence_probability(token_id: int, weights: str = "") -> float:
    """What the fake router of these weights, which are a number, says of a draft."""
    return ((token_id * 37 + int(weights or 0)) % VOCAB_SIZE) / VOCAB_SIZE


def reference_decoding(task: GenerationTask) -> list[tuple[int, bool]]:
    """The law, one token at a time: token id, and whether the LLM wrote it."""
    tokens = list(task.prompt_token_ids)
    decider = task.rule.decider()
    completion: list[tuple[int, bool]] = []
    while len(completion) < task.max_new_tokens:
        draft = fake_next_token("slm", tokens)
        score = (
            0.0 if task.rule.evidence is Evidence.NONE else divergence_probability(draft, task.rule.router_weights)
        )
        verdict = decider.verdict(Draft(len(tokens), draft, score))
        routed = verdict is not Verdict.ACCEPT
        token_id = fake_next_token("llm", tokens) if routed else draft
        if verdict is Verdict.CONFIRM:
            routed = token_id != draft
        decider.accepted(token_id, by_llm=routed, score=score)
        tokens.append(token_id)
        completion.append((token_id, routed))
        if token_id == EOS:
            break
    return completion


class FakeScorer:
    """`RowScorer` that looks at the token alone."""

    num_top_logits = 100

    def __init__(self, weights: str = "") -> None:
        self.info = router_pb2.RouterInfo(
            checkpoint="fake",
            weights_sha256=weights,
            vocab_size=VOCAB_SIZE,
            hidden_size=HIDDEN_SIZE,
            tokenizer_sha256=TOKENIZER_SHA256,
            default_threshold=0.5,
        )

    def score(
        self, token_ids: NDArray[np.int64], hidden_states: NDArray[np.float32], top_logits: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        weights = self.info.weights_sha256
        return np.array([divergence_probability(int(token_id), weights) for token_id in token_ids], dtype=np.float32)

    def warm_up(self, num_rows: int) -> None:
        pass


class FakeReplica:
    """A replica that keeps its address through its lives."""

    def __init__(self, service_name: str, create: Callable[[Lifecycle], tuple[Service, Any]]) -> None:
        self._service_name = service_name
        self._create = create
        self._num_lives = 0
        self.target = "127.0.0.1:0"
        """Where it listens. Set it before the first start for another address of the loopback."""
        self.engine: Any = None

    async def start(self) -> None:
        self._num_lives += 1
        self.lifecycle = Lifecycle(self._service_name, f"{self._service_name}/{id(self)}/{self._num_lives}")
        self.service, self.engine = self._create(self.lifecycle)
        self._server = create_server(self.service, self.lifecycle, CallGuard(self.lifecycle), ServingSettings())
        self.target = f"{self.host}:{self._server.add_insecure_port(self.target)}"
        await self._server.start()
        await self.service.start()
        await self.lifecycle.mark_ready()
        self._working = asyncio.create_task(self.service.run())

    async def kill(self) -> None:
        """Ends it with all its streams."""
        await self._server.stop(0)
        self._working.cancel()
        await asyncio.wait({self._working})
        await self.service.stop()

    @property
    def host(self) -> str:
        return self.target.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.target.rpartition(":")[2])

    @property
    def num_sequences(self) -> int:
        """Sequences that the engine holds."""
        return int(self.engine.load.num_active_sequences)


def slm_replica(engine_type: type[FakeSlmEngine] = FakeSlmEngine, **options: Any) -> FakeReplica:
    def create(lifecycle: Lifecycle) -> tuple[Service, FakeSlmEngine]:
        engine = engine_type(engine_options("slm", **options))
        return slm.SlmServicer(lambda: engine, lifecycle), engine

    return FakeReplica(slm.SERVICE_NAME, create)


def llm_replica(engine_type: type[FakeLlmEngine] = FakeLlmEngine, **options: Any) -> FakeReplica:
    def create(lifecycle: Lifecycle) -> tuple[Service, FakeLlmEngine]:
        engine = engine_type(engine_options("llm", **options))
        return llm.LlmServicer(lambda: engine, lifecycle), engine

    return FakeReplica(llm.SERVICE_NAME, create)


class RouterReplica(FakeReplica):
    """One whose router can be changed.

    Args:
        weights: Of its first router.
        max_versions: Routers that it holds at most.
        shadow: Weights of a second router, which decides nothing; None where there is none.
    """

    def __init__(self, weights: str = "", max_versions: int = 4, shadow: str | None = None) -> None:
        super().__init__(router.SERVICE_NAME, self._create_servicer)
        self.weights = weights
        self._shadow = shadow
        self._max_versions = max_versions

    async def swap(self, weights: str) -> None:
        self.weights = weights
        await cast(router.RouterServicer, self.service).swap()

    def _create_servicer(self, lifecycle: Lifecycle) -> tuple[Service, None]:
        shadow = self._shadow
        return router.RouterServicer(
            CheckpointSource(lambda: FakeScorer(self.weights)),
            lifecycle,
            shadow=None if shadow is None else CheckpointSource(lambda: FakeScorer(shadow)),
            max_versions=self._max_versions,
        ), None


def router_replica() -> RouterReplica:
    return RouterReplica()


def engine_options(model: str, **options: Any) -> EngineOptions:
    return EngineOptions(model=model, **({"kv_cache_tokens": 100_000, "max_batch_size": 4} | options))


class Cluster:
    """Replicas and a driver that runs over them."""

    def __init__(self, slms: Sequence[FakeReplica], routers: Sequence[FakeReplica], llms: Sequence[FakeReplica]):
        self.slms, self.routers, self.llms = slms, routers, llms
        self.driver: Driver
        self.presence: list[str | None] = []
        """What the driver told of services that have gone and come back."""
        self.first_context_len = 0
        """The context in the moment in which the pair was complete: requests may come from then on."""
        self.gate: PairGate

    @property
    def replicas(self) -> list[FakeReplica]:
        return [*self.slms, *self.routers, *self.llms]

    def on_pair(self) -> None:
        """The pair is complete."""
        self.first_context_len = self.driver.context_len

    @property
    def is_empty(self) -> bool:
        """No replica holds a sequence, and neither does the driver."""
        held = sum(replica.num_sequences for replica in (*self.slms, *self.llms))
        return held == 0 and self.driver.admission.num_active == 0

    async def run(self, task: GenerationTask) -> list[tuple[int, bool]]:
        """Runs a request to its end: token id, and whether the LLM wrote it."""
        got: list[tuple[int, bool]] = []
        async with self.driver.sequence(task) as sequence:
            async for part in sequence.answer.parts(0):
                got += [(token.token_id, token.source.name == "LLM") for token in part.tokens]
        return got


@asynccontextmanager
async def running_cluster(
    *,
    slms: Sequence[FakeReplica] = (),
    routers: Sequence[FakeReplica] = (),
    llms: Sequence[FakeReplica] = (),
    index: PrefixIndex | None = None,
    resolve: Resolve = resolve_host,
    default_evidence: Evidence = Evidence.ROUTER,
    learning: Learning | None = None,
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """A pair that is complete: one replica of each kind unless others are given.

    Settings may name other addresses than those of these replicas.
    """
    cluster = Cluster(slms or [slm_replica()], routers or [router_replica()], llms or [llm_replica()])
    async with AsyncExitStack() as stack:
        for replica in cluster.replicas:
            await replica.start()
            stack.push_async_callback(replica.kill)
        used = OrchestratorSettings(**(_settings(cluster) | settings))
        gate = cluster.gate = PairGate(
            TOKENIZER_SHA256, VOCAB_SIZE, lambda _outcome: cluster.on_pair(), has_router=bool(used.router)
        )
        cluster.driver = Driver(
            used,
            tokenizer=make_tokenizer(),
            gate=gate,
            index=index or PrefixIndex(None),
            open_channel=open_channel,
            resolve=resolve,
            draw=random.Random(0),
            default_evidence=default_evidence,
            learning=learning,
            on_presence=cluster.presence.append,
        )
        working = asyncio.create_task(cluster.driver.run())
        stack.push_async_callback(_end, working)
        await until(lambda: gate.pair is not None, timeout_s=90, check=lambda: _check(working))
        yield cluster
        _check(working)


def _settings(cluster: Cluster) -> dict[str, Any]:
    return {
        "slm": tuple(replica.target for replica in cluster.slms),
        "router": tuple(replica.target for replica in cluster.routers),
        "llm": tuple(replica.target for replica in cluster.llms),
        "tokenizer": "fake",
        "discovery_interval_s": 0.1,
    }


def make_task(request_id: str = "request", **fields: Any) -> GenerationTask:
    defaults: dict[str, Any] = {"prompt_token_ids": (5, 6, 7), "max_new_tokens": 60}
    fields.setdefault("rule", router_rule(fields.pop("threshold", 0.5)))
    return GenerationTask(request_id=request_id, **(defaults | fields))


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{token_id}": token_id for token_id in range(VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]


def _check(working: asyncio.Task[None]) -> None:
    assert not working.done(), working.exception()


async def _end(working: asyncio.Task[None]) -> None:
    working.cancel()
    await asyncio.wait({working})
