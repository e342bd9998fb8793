"""The interface between the model services and whatever runs the model.

Owns the two protocols and the values that cross them. Knows nothing of gRPC, nor of how a model is run. Arrays
cross as numpy, so that torch stays inside the engines.

Both engines work alike: calls that change a sequence return at once and must come from one asyncio event loop; `step`
runs what is due for all sequences together and returns what became ready. One task drives `step` in a loop.

**Room.** No sequence is refused for want of KV: the only limit to its length is `ModelInfo.context_len`, and what
can't fit alone is longer than that. KV is taken when a step schedules a sequence, which is also when the prefix cache
is asked; a sequence that waits for its first step holds nothing. Where there is none left, the engine takes that of
others by `services.engines.preemption`: of the youngest first, whether it wants something or not, among those younger
than the one that needs room and among those whose KV is mere cache. The oldest sequence with work always gets room.

A sequence whose KV was taken keeps its token ids. The engine rebuilds the KV by itself when it next has work and
room, through the prefix cache where that helps. Its caller notices nothing but time: what is held, in the sense of
`rewind` and `Extension.base_len`, are token ids; epochs and positions are as they would have been, and a pass that
was half answered is answered once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TOP_LOGITS = 100
"""Number of raw logits that an SLM engine hands to the router (arXiv:2505.21600 §4.2)."""


class ModelLoadError(ValueError):
    """A model, tokenizer or checkpoint can't be loaded. The message names the file or field."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is chosen from logits. The default is greedy.

    Args:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probability reaches this; in (0, 1].
        seed: Key of the counter-based noise: position t draws the same token each time (seed, t) is drawn.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


GREEDY = SamplingParams()


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is set up.

    Args:
        model: Hugging Face id or local directory.
        revision: Hugging Face revision; empty for the default branch or a local directory.
        device: torch device, e.g. "cpu" or "cuda".
        dtype: Arithmetic and KV type: "float32", "bfloat16" or "float16".
        max_batch_size: Most sequences in one forward pass.
        kv_cache_tokens: KV budget in tokens over all sequences.
        prefill_chunk_len: Most tokens of one sequence in one forward pass.
        tp_size: Tensor parallel ranks (SGLang only).
        num_threads: CPU threads of a forward pass; 0 leaves the library's default.
    """

    model: str
    revision: str = ""
    device: str = "cpu"
    dtype: str = "float32"
    max_batch_size: int = 32
    kv_cache_tokens: int = 65536
    prefill_chunk_len: int = 512
    tp_size: int = 1
    num_threads: int = 1


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is; mirrors `trivium.v1.ModelInfo`.

    `context_len` is the longest sequence that the engine takes: the model's own context, or all of the KV budget if
    that is less. A longer one would wait for room that never comes.
    """

    model_id: str
    revision: str
    vocab_size: int
    hidden_size: int
    tokenizer_sha256: str
    num_parameters: int
    context_len: int
    eos_token_ids: tuple[int, ...]
    engine: str


@dataclass(slots=True)
class EngineLoad:
    """What an engine is doing; mirrors `trivium.v1.EngineLoad`."""

    num_active_sequences: int = 0
    num_waiting_sequences: int = 0
    num_kv_tokens_used: int = 0
    num_kv_tokens_capacity: int = 0
    num_steps: int = 0
    num_rows: int = 0
    num_tokens_processed: int = 0
    num_tokens_reused: int = 0
    num_preemptions: int = 0
    num_sequences_without_room: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A sequence that the engine had to give up after accepting it. It is closed."""

    sequence_id: int
    error: Exception


@dataclass(frozen=True, slots=True)
class Opened:
    """A prefix that is now processed.

    Args:
        sequence_id: The sequence.
        num_tokens_reused: Leading tokens whose KV came from the prefix cache.
        num_tokens_prefilled: Tokens that were run through the model, those whose KV had to be rebuilt included.
    """

    sequence_id: int
    num_tokens_reused: int
    num_tokens_prefilled: int


@dataclass(frozen=True, slots=True)
class DraftStep:
    """What one step drafted, one row a sequence.

    Args:
        sequence_ids: Sequence of each row.
        positions: Index of each drafted token in its sequence, prompt included.
        epochs: Epoch of the open or rewind that each draft follows.
        token_ids: The drafted tokens.
        hidden_states: [rows, hidden] float32, last layer after the final norm, last position.
        top_logits: [rows, 100] float32, the largest raw logits, descending.
        opened: Sequences whose prefix was finished since the last step.
        refusals: Sequences given up since the last step.
        num_waiting_sequences: Sequences with work and room that did not fit into the batch of this step.
        num_sequences_without_room: Sequences with work for which there was no KV.
    """

    sequence_ids: list[int]
    positions: list[int]
    epochs: list[int]
    token_ids: list[int]
    hidden_states: NDArray[np.float32]
    top_logits: NDArray[np.float32]
    opened: list[Opened] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    num_waiting_sequences: int = 0
    num_sequences_without_room: int = 0


class SlmEngine(Protocol):
    """Drafts many sequences ahead, each within a window of positions that its caller grants.

    The KV of a sequence whose window is closed becomes cache once that has lasted for `preemption.IDLE_S`.
    """

    @property
    def info(self) -> ModelInfo:
        """What the model is. Valid after `start`."""

    @property
    def load(self) -> EngineLoad:
        """A snapshot of what the engine is doing."""

    async def start(self) -> None:
        """Loads the model and runs a warm-up pass.

        Raises:
            ModelLoadError: The model can't be loaded; the message names the file or field.
        """

    async def stop(self) -> None:
        """Frees the model and every process that was started for it. `step` raises CancelledError or returns."""

    def open(
        self,
        sequence_id: int,
        token_ids: Sequence[int],
        *,
        epoch: int,
        draft_until: int,
        stop_token_ids: frozenset[int],
        sampling: SamplingParams = GREEDY,
        priority: int = 0,
    ) -> None:
        """Starts to draft after a prefix; the first draft's position is `len(token_ids)`.

        Drafting pauses at `draft_until`, after a token of `stop_token_ids`, and at the context length. While the
        window is closed, the prefix isn't processed either. `priority` is when the sequence was admitted, in
        microseconds; a smaller one is older.

        Raises:
            InvalidRequest: The prefix is empty, an id is outside the vocabulary, or the sequence is open already.
            ContextLengthExceeded: The prefix leaves no room for one token.
        """

    def rewind(
        self, sequence_id: int, *, length: int, token_ids: Sequence[int], epoch: int, draft_until: int
    ) -> None:
        """Keeps the first `length` tokens (drafts included), appends `token_ids`, drafts on under `epoch`.

        No draft of an older epoch is returned by a later `step`.

        Raises:
            PrefixNotFound: Unknown sequence.
            PrefixConflict: The sequence holds fewer than `length` tokens.
            InvalidRequest: An id is outside the vocabulary, or no token would be left.
            ContextLengthExceeded: The sequence would be longer than the context.
        """

    def grant(self, sequence_id: int, *, draft_until: int) -> None:
        """Moves the end of the draft window; never back. Unknown sequences are ignored."""

    def close(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored. Its KV may stay in the prefix cache."""

    async def clear_prefix_cache(self) -> None:
        """Forgets the KV of closed sequences, and whose turn it is: what follows runs as on a new engine.

        Call it between steps.

        Raises:
            InvalidRequest: A sequence is open.
        """

    async def step(self) -> DraftStep:
        """Waits until a sequence has work, decodes one token for as many as fit, and returns the drafts.

        Safe to cancel between steps only. A step may return no rows (a chunk of a long prefill).
        """


@dataclass(frozen=True, slots=True)
class Extension:
    """Tokens to process and positions to answer for one sequence.

    Args:
        sequence_id: The sequence.
        base_len: Number of leading tokens that the engine holds and keeps; 0 starts the sequence anew.
        token_ids: The tokens at `base_len` and after, at least one.
        query_positions: Ascending; position q asks for the token after the first q tokens, with
            base_len < q <= base_len + len(token_ids). At least one.
        pass_id: Returned with the answer.
        sampling: How the answers are chosen.
        priority: When the sequence was admitted, in microseconds; a smaller one is older.
    """

    sequence_id: int
    base_len: int
    token_ids: Sequence[int]
    query_positions: Sequence[int]
    pass_id: int = 0
    sampling: SamplingParams = GREEDY
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The LLM's tokens at the query positions of one extension.

    Args:
        sequence_id: The sequence.
        pass_id: From the extension.
        token_ids: One a query position, in order.
        num_tokens_reused: Tokens beyond `base_len` whose KV came from the prefix cache.
        num_tokens_prefilled: Tokens that were run through the model, those whose KV had to be rebuilt included.
    """

    sequence_id: int
    pass_id: int
    token_ids: list[int]
    num_tokens_reused: int
    num_tokens_prefilled: int


class LlmEngine(Protocol):
    """Extends many sequences and answers which token the LLM would write at queried positions.

    The KV of a sequence without an unanswered extension becomes cache once that has lasted for `preemption.IDLE_S`.
    """

    @property
    def info(self) -> ModelInfo:
        """What the model is. Valid after `start`."""

    @property
    def load(self) -> EngineLoad:
        """A snapshot of what the engine is doing."""

    async def start(self) -> None:
        """Loads the model and runs a warm-up pass.

        Raises:
            ModelLoadError: The model can't be loaded; the message names the file or field.
        """

    async def stop(self) -> None:
        """Frees the model and every process that was started for it. `step` raises CancelledError or returns."""

    def extend(self, extension: Extension) -> None:
        """Queues an extension. The engine first drops what it holds beyond `base_len`.

        A newer extension of a sequence replaces one that is still unanswered.

        Raises:
            InvalidRequest: No tokens, no or unordered query positions, a position out of range, an id outside the
                vocabulary.
            PrefixNotFound: Unknown sequence and `base_len` > 0.
            PrefixConflict: The sequence holds fewer than `base_len` tokens; `need_from` tells how many.
            ContextLengthExceeded: The sequence would be longer than the context.
        """

    def release(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored. Its KV may stay in the prefix cache."""

    async def step(self) -> tuple[list[Answer], list[Refusal]]:
        """Waits until there is work, runs one pass over as many sequences as fit, returns what is finished.

        Safe to cancel between steps only. Both lists may be empty (a chunk of a long prefill).
        """
