"""What a labelling run is, fixed when its output folder is made: `OUT/plan.json`.

Owns the comparison of a run that goes on with the run that began. Shards of different models, queries or settings
would give a dataset that nothing tells apart any more, so whatever shapes a shard stands in the plan and has to stay.
Two kinds of settings may change: what a machine has room for, which reaches the last bits of a forward pass at most;
and the verifier, as long as there is no verdict.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from labeler_jobs.queries.loading import Query
from labeler_jobs.shards.store import ShardError, ShardStore
from labeler_jobs.verifiers.names import SUITE, is_url
from router_service.description import ModelIdentity
from services.engines.base import TOP_LOGITS

PLAN_FILE = "plan.json"
FORMAT_VERSION = 1
MACHINE_SETTINGS = ("max_batch_size", "kv_cache_tokens", "prefill_chunk_len", "prefill_batch_tokens", "num_threads")
"""Memory and threads; the plan notes what the run began with."""
_VERIFIER = ("settings.verifier", "settings.verifier_model")


class PlanError(ValueError):
    """The output folder belongs to another run. The message names the file and the field."""


@dataclass(frozen=True)
class QuerySource:
    """Where queries come from.

    Attributes:
        name: Kind of the source: "reference", or a name that `labeler_jobs.queries.loading` knows.
        path: File, folder or dataset; empty where the source needs none.
        split: Split of the source.
        limit: Most queries; None takes all.
    """

    name: str
    path: str = ""
    split: str = "train"
    limit: int | None = None


@dataclass(frozen=True)
class LabelSettings:
    """How queries are labelled.

    Attributes:
        max_new_tokens: Limit of a response, in tokens.
        max_continuation_len: Limit of a continuation, in tokens.
        num_top_logits: Logits that are kept per token.
        keep_unfinished: Whether responses that hit the limit are labelled too.
        verifier: Who tells neutral from divergent.
        verifier_model: Which model answers where the verifier is a URL; else empty.
        engine: What runs the LLM: "transformers" or "sglang".
        max_batch_size: Sequences that the LLM writes at a time.
        kv_cache_tokens: The LLM's KV budget, in tokens.
        prefill_chunk_len: Most prompt tokens of one of the LLM's forward passes.
        prefill_batch_tokens: Most tokens of one of the SLM's forward passes, padding included; one response may
            always run.
        num_threads: CPU threads of a forward pass; 0 leaves the library's default.
    """

    max_new_tokens: int = 32768
    max_continuation_len: int = 256
    num_top_logits: int = TOP_LOGITS
    keep_unfinished: bool = False
    verifier: str = SUITE
    verifier_model: str = ""
    engine: str = "transformers"
    max_batch_size: int = 64
    kv_cache_tokens: int = 65536
    prefill_chunk_len: int = 2048
    prefill_batch_tokens: int = 8192
    num_threads: int = 1


@dataclass(frozen=True)
class LabelPlan:
    """A labelling run.

    Attributes:
        slm: The small model.
        llm: The large model.
        context_len: Longest sequence that both can hold, in tokens.
        source: Where the queries come from.
        num_queries: How many there are.
        queries_sha256: Digest of them, in hex.
        num_shards: Shards of every stage.
        settings: How they are labelled.
        format_version: Version of this format.
    """

    slm: ModelIdentity
    llm: ModelIdentity
    context_len: int
    source: QuerySource
    num_queries: int
    queries_sha256: str
    num_shards: int
    settings: LabelSettings
    format_version: int = FORMAT_VERSION

    def query_range(self, index: int) -> range:
        """Numbers of the queries in one shard: consecutive, the shards' sizes differ by one at most."""
        return range(index * self.num_queries // self.num_shards, (index + 1) * self.num_queries // self.num_shards)


def settle_plan(
    store: ShardStore, plan: LabelPlan, may_change_verifier: Callable[[], bool] = lambda: False
) -> LabelPlan:
    """Makes the plan of an output folder, or checks that the folder's plan is this one.

    Args:
        store: The output folder.
        plan: What is to be run.
        may_change_verifier: Whether no verdict is there; asked where the plan has another verifier. It then gets this
            run's.

    Returns:
        The plan of this run.

    Raises:
        PlanError: The folder was made by a run that differs; the first field that does is named.
        ShardError: The plan can't be read or written.
    """
    if not store.exists(PLAN_FILE):
        _write(store, plan)
    where = store.locate(PLAN_FILE)
    try:
        found = _flatten(json.loads(store.read_text(PLAN_FILE)))
    except json.JSONDecodeError as error:
        raise ShardError(f"{where}: not valid JSON: {error}") from error
    wanted = _flatten(dataclasses.asdict(plan))
    changed = []
    for name in sorted(found.keys() | wanted.keys()):
        # Plans used not to tell the model behind a URL.
        if name.removeprefix("settings.") in MACHINE_SETTINGS or (name == _VERIFIER[1] and name not in found):
            continue
        if name not in wanted or name not in found:
            raise PlanError(f"{where}: {name} is {'unknown' if name in found else 'missing'}")
        if found[name] == wanted[name] or (name == _VERIFIER[0] and _are_urls(found[name], wanted[name])):
            continue
        if name not in _VERIFIER:
            raise PlanError(
                f"{where}: {name} is {found[name]!r}, this run's is {wanted[name]!r}: "
                "go on with what the folder was made with, or give another output folder"
            )
        changed.append(name)
    if changed:
        if not may_change_verifier():
            raise PlanError(
                f"{where}: {changed[0]} is {found[changed[0]]!r}, this run's is {wanted[changed[0]]!r}, and there "
                "are verdicts: `trivium label reverify` makes new ones over what is there"
            )
        _write(store, plan)
    return plan


def _write(store: ShardStore, plan: LabelPlan) -> None:
    store.write_text(PLAN_FILE, json.dumps(dataclasses.asdict(plan), indent=1) + "\n")


def _are_urls(*verifiers: str) -> bool:
    """Whether both are endpoints: where a model answers may change, which one it is not."""
    return all(map(is_url, verifiers))


def digest_queries(queries: Iterable[Query]) -> str:
    """SHA-256 of queries in their order, in hex."""
    digest = hashlib.sha256()
    for query in queries:
        digest.update(json.dumps([query.query_id, query.domain, query.query, query.answer]).encode() + b"\n")
    return digest.hexdigest()


def _flatten(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    flat = {}
    for key, inner in value.items():
        flat.update(_flatten(inner, f"{name}.{key}" if name else key))
    return flat
