"""Reference decoding of many questions at once: SLM drafts, a rule scores, the LLM writes where the score says so.

The token sequences are those of `evaluation.in_process`; the order of work is another. All rows of a batch draft in
lockstep; a routed row waits until enough others do, and the LLM then takes in what all of them have written since it
last saw them, packed into one pass. That measures accuracy and usage; latency is `in_process`'s to measure.

Source: arXiv:2505.21600 §4.3; deviation: none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evaluation.decoding.batch import DecodeBatch, RoutedResponse
from evaluation.decoding.packed_decoder import PackedDecoder
from evaluation.decoding.policies import DraftBatch, RoutingPolicy
from labeler_jobs.models.huggingface import length_batches

BATCH_SIZE = 128
_WAITING_SHARE = 0.5
"""The LLM runs once this share of the unfinished rows waits for it."""


@torch.inference_mode()
def decode_alone(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    from_llm: bool = False,
    batch_size: int = BATCH_SIZE,
    on_done: Callable[[int], None] | None = None,
) -> list[RoutedResponse]:
    """Decode prompts greedily with one model.

    Args:
        model: A causal language model whose generation config names its EOS id.
        prompts: Prompt token ids.
        max_new_tokens: Limit of a response, in tokens.
        from_llm: What the responses say about who wrote them.
        batch_size: Prompts that are decoded together.
        on_done: Told of each batch how many responses it finished.

    Returns:
        One response per prompt, in order.
    """
    responses: dict[int, RoutedResponse] = {}
    for batch in _batches(prompts, model, max_new_tokens, batch_size):
        decoder = PackedDecoder(model, len(batch), batch.tokens.size(1))
        while not bool(batch.done.all()):
            decoder.rewind(batch.lengths - 1)
            _, logits = decoder.extend(*batch.unseen(decoder.lengths))
            rows = (~batch.done).nonzero().flatten()
            batch.append(rows, logits[rows].argmax(dim=-1), from_llm=from_llm)
            if (kept := batch.compact()) is not None:
                decoder.keep(kept)
        responses.update(batch.responses)
        if on_done:
            on_done(len(batch.responses))
    return [responses[number] for number in range(len(prompts))]


@torch.inference_mode()
def decode_routed(
    slm: PreTrainedModel,
    llm: PreTrainedModel,
    policy: RoutingPolicy,
    prompts: Sequence[Sequence[int]],
    *,
    threshold: float,
    max_new_tokens: int,
    batch_size: int = BATCH_SIZE,
    on_done: Callable[[int], None] | None = None,
) -> list[RoutedResponse]:
    """Decode prompts greedily under the routing rule.

    Args:
        slm: The small model; its generation config names the EOS id.
        llm: The large model.
        policy: Scores drafts.
        prompts: Prompt token ids; a prompt's index is its number to the policy.
        threshold: The LLM writes a token when the score is at least this.
        max_new_tokens: Limit of a response, in tokens.
        batch_size: Prompts that are decoded together.
        on_done: Told of each batch how many responses it finished.

    Returns:
        One response per prompt, in order.
    """
    responses: dict[int, RoutedResponse] = {}
    for batch in _batches(prompts, slm, max_new_tokens, batch_size):
        _RoutedBatch(batch, slm, llm, policy, threshold).run()
        responses.update(batch.responses)
        if on_done:
            on_done(len(batch.responses))
    return [responses[number] for number in range(len(prompts))]


class _RoutedBatch:
    """A batch, both models' state of it, and which rows wait for the LLM with which score."""

    def __init__(
        self,
        batch: DecodeBatch,
        slm: PreTrainedModel,
        llm: PreTrainedModel,
        policy: RoutingPolicy,
        threshold: float,
    ) -> None:
        self._batch = batch
        self._slm = PackedDecoder(slm, len(batch), batch.tokens.size(1))
        self._llm = PackedDecoder(llm, len(batch), batch.tokens.size(1))
        self._policy = policy
        self._threshold = threshold
        self._waiting = torch.zeros(len(batch), dtype=torch.bool)
        self._scores = torch.zeros(len(batch))

    def run(self) -> None:
        """Decode to the end of every row."""
        while not bool(self._batch.done.all()):
            unfinished = ~self._batch.done
            if int(self._waiting.sum()) >= _WAITING_SHARE * int(unfinished.sum()):
                self._correct(self._waiting.nonzero().flatten())
            else:
                self._draft((unfinished & ~self._waiting).nonzero().flatten())
            if (kept := self._batch.compact()) is not None:
                self._slm.keep(kept)
                self._llm.keep(kept)
                self._waiting, self._scores = self._waiting[kept], self._scores[kept]

    def _draft(self, rows: Tensor) -> None:
        batch = self._batch
        # Rows that wait or are done draft once more what they drafted: cheaper than to gather the others' KV.
        self._slm.rewind(batch.lengths - 1)
        hidden_state, logits = self._slm.extend(*batch.unseen(self._slm.lengths))
        drafts = DraftBatch(
            logits=logits[rows],
            hidden_state=hidden_state[rows],
            token_ids=logits[rows].argmax(dim=-1),
            questions=batch.numbers[rows],
            positions=batch.lengths[rows] - batch.prompt_lens[rows],
        )
        scores = self._policy.scores(drafts)
        routed = scores >= self._threshold
        batch.append(rows[~routed], drafts.token_ids[~routed], from_llm=False, scores=scores[~routed])
        self._waiting[rows[routed]] = True
        self._scores[rows[routed]] = scores[routed]

    def _correct(self, rows: Tensor) -> None:
        _, logits = self._llm.extend(*self._batch.unseen(self._llm.lengths, rows), rows)
        self._batch.append(rows, logits.argmax(dim=-1), from_llm=True, scores=self._scores[rows])
        self._waiting[rows] = False


def _batches(
    prompts: Sequence[Sequence[int]], model: PreTrainedModel, max_new_tokens: int, batch_size: int
) -> Iterator[DecodeBatch]:
    eos_token_id = model.generation_config.eos_token_id
    for numbers in length_batches([len(prompt) for prompt in prompts], batch_size):
        yield DecodeBatch([prompts[number] for number in numbers], numbers, eos_token_id, max_new_tokens)
