"""The five stages: what each reads, writes and counts, and how it makes one shard.

Owns the wiring between shards and the work on them. A stage is opened once (a model is loaded) and then makes one
shard after the other, each from nothing but the shards before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel

from labeler_jobs.models.writer import GreedyWriter
from labeler_jobs.plan import LabelPlan, LabelSettings
from labeler_jobs.shards.store import ShardName, ShardStore
from labeler_jobs.stages.continuation import Forked, continue_sentences
from labeler_jobs.stages.dataset import join_labels, labelled_schema
from labeler_jobs.stages.prefill import Answered, check_head, prefill
from labeler_jobs.stages.responses import write_responses
from labeler_jobs.stages.schemas import CONTINUATIONS, QUERIES, RESPONSES, VERDICTS, prefill_schema
from labeler_jobs.stages.verification import judge_continuations
from labeler_jobs.verifiers.verifier import Verifier
from services.common.pair import ModelSection, Pair
from services.common.text.tokenizer import load_tokenizer
from services.engines.base import EngineOptions
from services.engines.factory import create_slm_engine
from services.engines.transformers.loading import load_model

Batches = Iterable[pa.RecordBatch]
OnItems = Callable[[int], None]
MakeShard = Callable[[ShardName, OnItems], Batches]


@dataclass(frozen=True)
class Bench:
    """What stages work with.

    Attributes:
        store: The output folder.
        plan: Its plan.
        pair: The models.
        open_verifier: Opens the verifier, when it is needed.
    """

    store: ShardStore
    plan: LabelPlan
    pair: Pair
    open_verifier: Callable[[], AbstractContextManager[Verifier]]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: Of the command that runs it.
        folder: Of its shards.
        counts: What its items are.
        needs: Folders whose shards it reads.
        schema: Of its shards.
        open: Loads what it needs and gives the function that makes a shard.
        device: The section whose device does the work; None where none does.
        try_first: Tries, before shards of earlier stages are made, what would fail this stage after all of them.
    """

    name: str
    folder: str
    counts: str
    needs: tuple[str, ...]
    schema: Callable[[LabelPlan], pa.Schema]
    open: Callable[[Bench], AbstractContextManager[MakeShard]]
    device: Callable[[Pair], ModelSection | None] = field(default=lambda pair: None)
    try_first: Callable[[Bench], None] = field(default=lambda bench: None)


def llm_options(section: ModelSection, settings: LabelSettings) -> EngineOptions:
    """How the engine of a model that writes is set up."""
    engine = section.engine
    return EngineOptions(
        model=section.model,
        revision=section.revision,
        device=engine.device or "cpu",
        dtype=engine.dtype or "float32",
        max_batch_size=settings.max_batch_size,
        kv_cache_tokens=settings.kv_cache_tokens,
        prefill_chunk_len=settings.prefill_chunk_len,
        tp_size=engine.tp_size or 1,
        num_threads=settings.num_threads,
    )


@contextmanager
def _open_responses(bench: Bench) -> Iterator[MakeShard]:
    plan, tokenizer = bench.plan, load_tokenizer(bench.pair.llm.model, bench.pair.llm.revision)
    with _open_writer(bench) as writer:

        def make(shard: ShardName, on_items: OnItems) -> Batches:
            queries = bench.store.read(shard.of("queries").path, QUERIES)
            settings = plan.settings
            yield write_responses(queries, tokenizer, writer, plan.context_len, settings.max_new_tokens, on_items)

        yield make


def _load_slm(bench: Bench) -> PreTrainedModel:
    settings, section = bench.plan.settings, bench.pair.slm
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    slm = load_model(
        EngineOptions(
            model=section.model,
            revision=section.revision,
            device=section.engine.device or "cpu",
            dtype=section.engine.dtype or "float32",
        )
    )
    check_head(slm)
    return slm


def _try_slm(bench: Bench) -> None:
    _load_slm(bench)
    # The LLM's engine may need all of the device.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _open_prefill(bench: Bench) -> Iterator[MakeShard]:
    settings, slm = bench.plan.settings, _load_slm(bench)

    def make(shard: ShardName, on_items: OnItems) -> Batches:
        answered = [
            Answered(row["query_id"], row["prompt_token_ids"], row["response_token_ids"])
            for row in _labelled_responses(bench, shard).to_pylist()
        ]
        return prefill(slm, answered, settings.num_top_logits, settings.prefill_batch_tokens, on_items)

    yield make


@contextmanager
def _open_continue(bench: Bench) -> Iterator[MakeShard]:
    plan, tokenizer = bench.plan, load_tokenizer(bench.pair.llm.model, bench.pair.llm.revision)
    with _open_writer(bench) as writer:

        def make(shard: ShardName, on_items: OnItems) -> Batches:
            forks = defaultdict(list)
            columns = ["query_id", "position", "slm_token_id", "different"]
            for batch in bench.store.batches(shard.of("prefill").path, _prefill_schema(plan), columns):
                for row in batch.filter(batch.column("different")).to_pylist():
                    forks[row["query_id"]].append((row["position"], row["slm_token_id"]))
            forked = [
                Forked(row["query_id"], row["prompt_token_ids"], row["response_token_ids"], forks[row["query_id"]])
                for row in _labelled_responses(bench, shard).to_pylist()
            ]
            limits = (plan.context_len, plan.settings.max_continuation_len, plan.settings.kv_cache_tokens)
            yield continue_sentences(forked, tokenizer, writer, *limits, on_items)

        yield make


@contextmanager
def _open_verify(bench: Bench) -> Iterator[MakeShard]:
    tokenizer = load_tokenizer(bench.pair.llm.model, bench.pair.llm.revision)
    with bench.open_verifier() as verifier:

        def make(shard: ShardName, on_items: OnItems) -> Batches:
            continuations = bench.store.read(shard.of("continuations").path, CONTINUATIONS)
            responses = _labelled_responses(bench, shard).to_pylist()
            answers = {row["query_id"]: row["response_token_ids"] for row in responses}
            return judge_continuations(continuations, answers, tokenizer, verifier, on_items)

        yield make


@contextmanager
def _open_dataset(bench: Bench) -> Iterator[MakeShard]:
    def make(shard: ShardName, on_items: OnItems) -> Batches:
        responses = _labelled_responses(bench, shard)
        domains = dict(zip(responses["query_id"].to_pylist(), responses["domain"].to_pylist(), strict=True))
        verdicts = bench.store.read(shard.of("verdicts").path, VERDICTS).select(["query_id", "position", "label"])
        labels = {(row["query_id"], row["position"]): row["label"] for row in verdicts.to_pylist()}
        prefilled = bench.store.batches(shard.of("prefill").path, _prefill_schema(bench.plan))
        for batch in join_labels(prefilled, domains, labels, _dataset_schema(bench.plan)):
            yield batch
            on_items(batch.num_rows)

    yield make


def _open_writer(bench: Bench) -> GreedyWriter:
    settings = bench.plan.settings
    engine = create_slm_engine(settings.engine, llm_options(bench.pair.llm, settings))
    return GreedyWriter(engine, settings.max_batch_size, bench.plan.context_len)


def _labelled_responses(bench: Bench, shard: ShardName) -> pa.Table:
    """The responses of a shard that go on to the next stages."""
    responses = bench.store.read(shard.of("responses").path, RESPONSES)
    if bench.plan.settings.keep_unfinished:
        return responses.filter(pc.greater(pc.list_value_length(responses["response_token_ids"]), 0))
    return responses.filter(responses["finished"])


def _prefill_schema(plan: LabelPlan) -> pa.Schema:
    return prefill_schema(plan.slm.hidden_size, plan.settings.num_top_logits)


def _dataset_schema(plan: LabelPlan) -> pa.Schema:
    return labelled_schema(plan.slm, plan.llm, plan.settings.num_top_logits)


def _slm(pair: Pair) -> ModelSection:
    return pair.slm


def _llm(pair: Pair) -> ModelSection:
    return pair.llm


STAGES = (
    Stage("responses", "responses", "tokens", ("queries",), lambda plan: RESPONSES, _open_responses, _llm),
    Stage("prefill", "prefill", "tokens", ("responses",), _prefill_schema, _open_prefill, _slm, _try_slm),
    Stage(
        "continue",
        "continuations",
        "tokens",
        ("responses", "prefill"),
        lambda plan: CONTINUATIONS,
        _open_continue,
        _llm,
    ),
    Stage("verify", "verdicts", "forks", ("responses", "continuations"), lambda plan: VERDICTS, _open_verify),
    Stage("dataset", "dataset", "rows", ("responses", "prefill", "verdicts"), _dataset_schema, _open_dataset),
)
"""All stages, in their order."""
