"""Reference decoding of many queries at once: SLM drafts, router scores, LLM writes where the score says so.

Both models run in lockstep over the whole batch, the LLM at every step, so that its cache follows the accepted
tokens. That measures accuracy and usage, not speed: usage counts the tokens that were taken from the LLM.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from evaluation.reference.pair import ReferencePair
from labeler_jobs.models import length_batches, output_logits, pad_left
from router_service.features import select_top_logits

MAX_NEW_TOKENS = 220
"""More than any response of the suite has."""
SLM_ONLY = 2.0
"""A threshold that routes nothing."""


@dataclass(frozen=True)
class RoutedResponse:
    """One decoded response.

    Attributes:
        token_ids: Emitted tokens, EOS included when it was reached.
        from_llm: For each of them, whether the LLM wrote it.
        divergence_probabilities: For each of them, the router's verdict on the SLM's token.
    """

    token_ids: list[int]
    from_llm: list[bool]
    divergence_probabilities: list[float]


class _Decoder:
    """One model with its cache over a left-padded batch."""

    def __init__(self, model: PreTrainedModel, mask: Tensor) -> None:
        self._model = model
        self._mask = mask
        self._cache: Cache | None = None

    def feed(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Take i64 [batch, new] and return the last position's hidden state and logits."""
        if self._cache is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(token_ids), token_ids.size(1))], dim=1)
        positions = (self._mask.cumsum(dim=1) - 1).clamp_min(0)[:, -token_ids.size(1) :]
        output = self._model.base_model(
            input_ids=token_ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = output.past_key_values
        hidden_state = output.last_hidden_state[:, -1]
        return hidden_state, output_logits(self._model, hidden_state)


def decode_routed(
    pair: ReferencePair,
    prompts: Sequence[Sequence[int]],
    threshold: float,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 100,
) -> list[RoutedResponse]:
    """Decode prompts greedily under the routing rule.

    Args:
        pair: Models and router.
        prompts: Prompt token ids.
        threshold: The LLM writes a token when the divergence probability is at least this: 0 is LLM-only, above 1 is
            SLM-only.
        max_new_tokens: Limit of a response, in tokens.
        batch_size: Prompts that are decoded together.

    Returns:
        One response per prompt, in order.
    """
    responses: dict[int, RoutedResponse] = {}
    for rows in length_batches([len(prompt) for prompt in prompts], batch_size):
        decoded = _decode_batch(pair, [prompts[row] for row in rows], threshold, max_new_tokens)
        responses.update(zip(rows, decoded, strict=True))
    return [responses[row] for row in range(len(prompts))]


@torch.inference_mode()
def _decode_batch(
    pair: ReferencePair, prompts: Sequence[Sequence[int]], threshold: float, max_new_tokens: int
) -> list[RoutedResponse]:
    responses = [RoutedResponse([], [], []) for _ in prompts]
    eos = pair.tokenizer.eos_token_id
    token_ids, mask = pad_left(prompts, pair.tokenizer.pad_token_id)
    slm, llm = _Decoder(pair.slm, mask), _Decoder(pair.llm, mask)
    done = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(max_new_tokens):
        drafted, probabilities = _draft(pair, slm, token_ids)
        routed = probabilities >= threshold
        written = torch.where(routed, llm.feed(token_ids)[1].argmax(dim=-1), drafted) if threshold <= 1.0 else drafted
        for row in (~done).nonzero().flatten().tolist():
            responses[row].token_ids.append(int(written[row]))
            responses[row].from_llm.append(bool(routed[row]))
            responses[row].divergence_probabilities.append(float(probabilities[row]))
        done |= written == eos
        if bool(done.all()):
            break
        token_ids = written.unsqueeze(1)
    return responses


def _draft(pair: ReferencePair, slm: _Decoder, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    hidden_state, logits = slm.feed(token_ids)
    drafted = logits.argmax(dim=-1)
    top_logits = select_top_logits(logits, pair.router.config.num_top_logits)
    return drafted, torch.sigmoid(pair.router(hidden_state, top_logits, pair.slm_embedding[drafted]))
