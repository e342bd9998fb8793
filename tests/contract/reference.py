"""What an engine's tokens are compared with: a model that is run over the whole prefix for every single token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from evaluation.in_process import NEAR_TIE
from services.engines.base import GREEDY, TOP_LOGITS, SamplingParams
from services.engines.fakes import fake_next_token
from services.engines.sampling import sample_token


@dataclass(frozen=True)
class Features:
    hidden_state: NDArray[np.float32]
    top_logits: NDArray[np.float32]


class Reference(Protocol):
    def next_token(self, token_ids: Sequence[int], sampling: SamplingParams = GREEDY) -> int: ...

    def allows(self, token_ids: Sequence[int], token_id: int, sampling: SamplingParams = GREEDY) -> bool: ...

    def features(self, token_ids: Sequence[int]) -> Features: ...


class PlainModel:
    """No KV cache, no batch, no padding."""

    def __init__(self, folder: Path) -> None:
        # The attention that is written out: for some families the only one that does all of it.
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        self._run = cache(self._run_once)

    def _run_once(self, token_ids: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            output = self._model(torch.tensor([token_ids]), output_hidden_states=True, use_cache=False)
        return output.logits[0, -1].numpy(), output.hidden_states[-1][0, -1].numpy()

    def next_token(self, token_ids: Sequence[int], sampling: SamplingParams = GREEDY) -> int:
        logits, _hidden = self._run(tuple(token_ids))
        if sampling.temperature > 0:
            return sample_token(logits, sampling, len(token_ids))
        return int(logits.argmax())

    def allows(self, token_ids: Sequence[int], token_id: int, sampling: SamplingParams = GREEDY) -> bool:
        if token_id == self.next_token(token_ids, sampling):
            return True
        logits, _hidden = self._run(tuple(token_ids))
        return sampling == GREEDY and float(logits.max() - logits[token_id]) < NEAR_TIE

    def generate(self, token_ids: Sequence[int], num_tokens: int) -> list[int]:
        """What transformers itself writes greedily, up to the end of sequence."""
        prompt = torch.tensor([token_ids])
        output = self._model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=num_tokens, do_sample=False
        )
        written: list[int] = output[0, len(token_ids) :].tolist()
        return written

    def features(self, token_ids: Sequence[int]) -> Features:
        logits, hidden = self._run(tuple(token_ids))
        return Features(hidden, np.sort(logits)[::-1][:TOP_LOGITS])


class FakeReference:
    def __init__(self, model: str) -> None:
        self._model = model

    def next_token(self, token_ids: Sequence[int], sampling: SamplingParams = GREEDY) -> int:
        return fake_next_token(self._model, token_ids, sampling)

    def allows(self, token_ids: Sequence[int], token_id: int, sampling: SamplingParams = GREEDY) -> bool:
        return token_id == self.next_token(token_ids, sampling)

    def features(self, token_ids: Sequence[int]) -> Features:
        raise NotImplementedError("a fake's features mean nothing")


def assert_follows(
    reference: Reference, token_ids: Sequence[int], prompt_len: int, sampling: SamplingParams = GREEDY
) -> None:
    """Every token after the prompt is the one that the reference writes after the tokens before it."""
    for position in range(prompt_len, len(token_ids)):
        assert reference.allows(token_ids[:position], token_ids[position], sampling), f"position {position}"
