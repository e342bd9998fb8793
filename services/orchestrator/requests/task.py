"""A request that can be run: what was asked for, checked and complete."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import Enum

from trivium.v1 import orchestrator_pb2

from services.engines.base import GREEDY, SamplingParams
from services.rules.chosen import ChosenRule


class LlmLossPolicy(Enum):
    """What a request does when no LLM replica is left."""

    WAIT = orchestrator_pb2.LLM_LOSS_POLICY_WAIT
    SLM_ONLY = orchestrator_pb2.LLM_LOSS_POLICY_SLM_ONLY
    FAIL = orchestrator_pb2.LLM_LOSS_POLICY_FAIL


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """A request that can be run.

    Args:
        request_id: Given by the client, or chosen here.
        prompt_token_ids: At least one, each in the vocabulary, leaving room for one more.
        max_new_tokens: At least 1, and at most what fits into the context.
        rule: Decides which drafts stand.
        stop: Stop strings, none empty.
        sampling: How tokens are chosen.
        run_ahead_depth: Asked for by the request; None for the server's default.
        resume_from: Completion tokens that the client already has, at most `max_new_tokens`; None for a new request.
        llm_loss_policy: What to do when no LLM replica is left.
        opens_reasoning: The prompt ends inside of reasoning that the chat template has opened.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_new_tokens: int
    rule: ChosenRule
    stop: tuple[str, ...] = ()
    sampling: SamplingParams = GREEDY
    run_ahead_depth: int | None = None
    resume_from: int | None = None
    llm_loss_policy: LlmLossPolicy = LlmLossPolicy.WAIT
    opens_reasoning: bool = False

    async def task(self) -> GenerationTask:
        """This task, as `ParsedRequest` has it: nothing is left to be read."""
        return self

    def fingerprint(self) -> bytes:
        """Hashes what decides the tokens, in 16 bytes: a request may be resumed by one with the same fingerprint.

        The token limit doesn't count, since it only cuts them.
        """
        sampling = self.sampling
        digest = hashlib.blake2b(digest_size=16)
        for part in (
            struct.pack(f"<{len(self.prompt_token_ids)}I", *self.prompt_token_ids),
            self.rule.identity(),
            struct.pack("<dIdQ", sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed),
            *(text.encode() for text in self.stop),
        ):
            digest.update(struct.pack("<Q", len(part)) + part)
        return digest.digest()
