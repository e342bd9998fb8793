"""The reference decoding in one process, one token at a time: what the services are held to, and measured against.

Written straight from the rule, with plain Hugging Face models and nothing of the services: `s = SLM(x)`,
`p = router(features of s)`, `y = s if p < threshold else LLM(x)`. Slow in nothing but its order: both models keep
their KV cache, and the LLM processes what it hasn't seen in one pass when it is asked.

Source: arXiv:2505.21600 §4.3 and A.4; deviation: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from evaluation.reference.pair import LoadedPair
from router_service.features import select_top_logits
from router_service.model import divergence_probability

SLM_ONLY = 2.0
"""A threshold that routes nothing."""
NEAR_TIE = 1e-4
"""Differences below this are decided by the last bits of a float32 matrix product."""


@dataclass(frozen=True, slots=True)
class DecodedToken:
    """One token of the reference decoding.

    Args:
        token_id: The token.
        from_llm: Whether the LLM wrote it.
        divergence_probability: The router's score of the SLM's draft, in [0, 1].
        margin: The least of what decided it: the gap between the two largest logits of the SLM, of the LLM if it was
            asked, and between score and threshold.
    """

    token_id: int
    from_llm: bool
    divergence_probability: float
    margin: float


class CachedModel:
    """A model and the KV cache of one sequence."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._base_model = model.base_model
        self._head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self._cache = DynamicCache(config=model.config)
        self._num_processed = 0

    def next_logits(self, tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Processes what is new in `tokens`.

        Returns:
            f32 [1, vocab] logits and f32 [1, hidden] hidden state of the last position.
        """
        new = torch.tensor([tokens[self._num_processed :]])
        output = self._base_model(input_ids=new, past_key_values=self._cache, use_cache=True)
        self._num_processed = len(tokens)
        hidden_state = output.last_hidden_state[:, -1]
        return self._head(hidden_state), hidden_state


@torch.inference_mode()
def decode(
    pair: LoadedPair, prompt_token_ids: Sequence[int], *, threshold: float, max_new_tokens: int
) -> list[DecodedToken]:
    """Decodes one prompt greedily.

    Args:
        pair: Models and router, in float32.
        prompt_token_ids: The prompt, at least one token.
        threshold: 0 is LLM only, above 1 is SLM only.
        max_new_tokens: Limit of the completion.

    Returns:
        The completion, with the end-of-sequence token if it was reached.
    """
    slm, llm = CachedModel(pair.slm), CachedModel(pair.llm)
    tokens = list(prompt_token_ids)
    completion: list[DecodedToken] = []
    while len(completion) < max_new_tokens:
        logits, hidden_state = slm.next_logits(tokens)
        draft = int(logits.argmax())
        top_logits = select_top_logits(logits, pair.router.config.num_top_logits)
        score = divergence_probability(pair.router(hidden_state, top_logits, pair.slm_embedding[[draft]]))
        probability = float(score)
        margins = [float(top_logits[0, 0] - top_logits[0, 1]), abs(probability - threshold)]
        token_id, routed = draft, probability >= threshold
        if routed:
            llm_logits, _ = llm.next_logits(tokens)
            first, second = torch.topk(llm_logits[0], 2).values.tolist()
            margins.append(first - second)
            token_id = int(llm_logits.argmax())
        tokens.append(token_id)
        completion.append(DecodedToken(token_id, routed, probability, min(margins)))
        if token_id == pair.tokenizer.eos_token_id:
            break
    return completion
