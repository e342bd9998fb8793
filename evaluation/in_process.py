"""The reference decoding in one process, one token at a time: what the services are held to, and measured against.

Written straight from the law, with plain Hugging Face models: `s = SLM(x)`, `y = s if accept(x, s) else LLM(x)`.
`accept` is the rule's; one that has drafts confirmed lets s stand if it is LLM(x). Of the services it knows the rule,
and the noise of sampled tokens, alone. Slow in nothing but its order: both models keep their KV cache, and the LLM
processes what it hasn't seen in one pass when it is asked.

Source: arXiv:2505.21600 §4.3 and A.4; deviation: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from evaluation.reference.pair import LoadedPair
from router_service.features import select_top_logits
from router_service.model import divergence_probability
from services.engines.base import GREEDY, TOP_LOGITS, SamplingParams
from services.engines.sampling import perturbed_logits
from services.rules.chosen import ChosenRule
from services.rules.decider import Draft, Verdict
from services.rules.rule import DraftRows, Evidence

SLM_ONLY = 2.0
"""A threshold of the router that routes nothing."""
NEAR_TIE = 1e-4
"""Differences below this are decided by the last bits of a float32 matrix product."""


@dataclass(frozen=True, slots=True)
class DecodedToken:
    """One token of the reference decoding.

    Args:
        token_id: The token.
        from_llm: Whether the LLM wrote it.
        score: What the rule's evidence says of the SLM's draft; 0 where the rule needs none.
        margin: The least of what decided it: the gap between the two largest logits of the SLM, of the LLM if it was
            asked, with their noise if they are sampled, and between score and threshold.
        confirmed: Whether the SLM wrote it, and the LLM, which was asked, would have written the same.
    """

    token_id: int
    from_llm: bool
    score: float
    margin: float
    confirmed: bool = False


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
    pair: LoadedPair,
    prompt_token_ids: Sequence[int],
    rule: ChosenRule,
    *,
    max_new_tokens: int,
    sampling: SamplingParams = GREEDY,
) -> list[DecodedToken]:
    """Decodes one prompt.

    Args:
        pair: Models and router, in float32.
        prompt_token_ids: The prompt, at least one token.
        rule: Decides which of the SLM's tokens stand.
        max_new_tokens: Limit of the completion.
        sampling: How either model chooses a token.

    Returns:
        The completion, with the end-of-sequence token if it was reached.
    """
    slm, llm, decider = CachedModel(pair.slm), CachedModel(pair.llm), rule.decider()
    tokens = list(prompt_token_ids)
    completion: list[DecodedToken] = []
    while len(completion) < max_new_tokens:
        logits, hidden_state = slm.next_logits(tokens)
        draft, gap = _choose(logits, sampling, len(tokens))
        score = _score(pair, rule, logits, hidden_state, draft)
        margins = [gap]
        if rule.threshold is not None and rule.evidence is not Evidence.NONE:
            margins.append(abs(score - rule.threshold))
        verdict, written = decider.verdict(Draft(len(tokens), draft, score)), draft
        if verdict is not Verdict.ACCEPT:
            written, gap = _choose(llm.next_logits(tokens)[0], sampling, len(tokens))
            margins.append(gap)
        confirmed = verdict is Verdict.CONFIRM and written == draft
        from_llm = verdict is not Verdict.ACCEPT and not confirmed
        if decider.in_order:
            decider.accepted(written, by_llm=from_llm, score=score)
        tokens.append(written)
        completion.append(DecodedToken(written, from_llm, score, min(margins), confirmed))
        if written == pair.tokenizer.eos_token_id:
            break
    return completion


def _choose(logits: Tensor, sampling: SamplingParams, position: int) -> tuple[int, float]:
    """The token that a model writes, and by how much it does, measured in logits."""
    if sampling.temperature == 0:
        # Where two are equal, argmax is what engines take.
        first, second = torch.topk(logits[0], 2).values.tolist()
        return int(logits.argmax()), first - second
    perturbed = perturbed_logits(logits[0].numpy(), sampling, position)
    second, first = np.sort(perturbed)[-2:]
    return int(perturbed.argmax()), float(first - second) * sampling.temperature


def _score(pair: LoadedPair, rule: ChosenRule, logits: Tensor, hidden_state: Tensor, draft: int) -> float:
    match rule.evidence:
        case Evidence.NONE:
            return 0.0
        case Evidence.SLM:
            top_logits = select_top_logits(logits, TOP_LOGITS)
            return float(rule.rule.scores(DraftRows(top_logits.numpy(), np.array([draft])))[0])
        case Evidence.ROUTER:
            top_logits = select_top_logits(logits, pair.router.config.num_top_logits)
            return float(divergence_probability(pair.router(hidden_state, top_logits, pair.slm_embedding[[draft]])))
