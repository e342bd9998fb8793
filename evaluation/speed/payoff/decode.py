"""Writes answers under a rule straight from its definition, and records what was decided at each position.

One token at a time, as the reference decoding does, by the services of a running pair. In the end the LLM reads each
answer in one pass and says at every position what it would have written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.speed.payoff.streams import (
    Drafts,
    PairStreams,
    close_slm,
    grant_slm,
    new_sequence_id,
    open_slm,
    rewind_slm,
)
from evaluation.speed.payoff.trace import Trace, is_by_llm
from services.rules.chosen import ChosenRule
from services.rules.decider import Draft, Verdict
from services.rules.rule import DraftRows, Evidence

SURE = 0.9
"""Probability from which on the SLM service holds a draft for the next ones (`services.slm.pacing`)."""


async def decode(pair: PairStreams, rule: ChosenRule, prompt: Sequence[int], max_new_tokens: int) -> Trace:
    """Writes one answer, greedily.

    Args:
        pair: The services.
        rule: The rule.
        prompt: Token ids, at least one.
        max_new_tokens: Limit of the answer.

    Raises:
        PeerUnavailable: A service refuses the sequence, or is gone.
    """
    sequence_id, decider = new_sequence_id(), rule.decider()
    tokens = list(prompt)
    drafts: list[int] = []
    scores: list[float] = []
    is_sure: list[bool] = []
    held, epoch = 0, 0
    await pair.slm.tell(open_slm(sequence_id, prompt, 1))
    while True:
        drafted = await pair.slm.drafts()
        [token_id] = [int(token) for token in drafted.token_ids]
        score = float((await _scores(pair, rule, drafted))[0])
        verdict = decider.verdict(Draft(len(tokens), token_id, score))
        final = token_id
        if verdict is not Verdict.ACCEPT:
            base_len = min(held, len(tokens) - 1)
            answer = await pair.llm.extend(sequence_id, base_len, tokens[base_len:], [len(tokens)])
            held, final = len(tokens), answer.token_ids[0]
        if decider.in_order:
            decider.accepted(final, by_llm=is_by_llm(verdict, agrees=final == token_id), score=score)
        drafts.append(token_id)
        scores.append(score)
        is_sure.append(_probability(drafted) >= SURE)
        tokens.append(final)
        if final in pair.eos_token_ids or len(drafts) == max_new_tokens:
            break
        if final == token_id:
            await pair.slm.tell(grant_slm(sequence_id, len(tokens) + 1))
        else:
            epoch += 1
            await pair.slm.tell(rewind_slm(sequence_id, len(tokens) - 1, final, epoch))
    await pair.slm.tell(close_slm(sequence_id))
    base_len = min(held, len(prompt) - 1)
    queries = range(len(prompt), len(tokens))
    read = await pair.llm.extend(sequence_id, base_len, tokens[base_len:-1], queries)
    await pair.llm.release(sequence_id)
    agrees = tuple(mine == theirs for mine, theirs in zip(drafts, read.token_ids, strict=True))
    return Trace(len(prompt), tuple(scores), agrees, tuple(is_sure))


async def _scores(pair: PairStreams, rule: ChosenRule, drafted: Drafts) -> NDArray[np.float32]:
    match rule.evidence:
        case Evidence.ROUTER:
            assert pair.router is not None
            return await pair.router.scores(drafted)
        case Evidence.SLM:
            return rule.rule.scores(DraftRows(drafted.top_logits, drafted.token_ids))
        case Evidence.NONE:
            return np.zeros(len(drafted.token_ids), dtype=np.float32)


def _probability(drafted: Drafts) -> float:
    logits = drafted.top_logits[0]
    return float(1 / np.exp(logits - logits[0]).sum())
