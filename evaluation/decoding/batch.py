"""The tokens of a batch that is being decoded, as tensors, and the responses that come out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_ALIVE_SHARE = 0.7
"""Finished rows are dropped once fewer than this share of a batch is left."""


@dataclass
class RoutedResponse:
    """One decoded response.

    Attributes:
        token_ids: Emitted tokens, EOS included when it was reached.
        from_llm: For each of them, whether the LLM wrote it.
        scores: For each of them, the rule's verdict on the SLM's token; empty where one model answered alone.
    """

    token_ids: list[int] = field(default_factory=list)
    from_llm: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class DecodeBatch:
    """Rows that are decoded together.

    Attributes:
        tokens: i64 [rows, capacity], prompts and what was written after them.
        lengths: i64 [rows], how much of a row is filled.
        prompt_lens: i64 [rows].
        numbers: i64 [rows], the caller's number of each row.
        done: bool [rows], finished or at the limit.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], numbers: Sequence[int], eos_token_id: int, max_new_tokens: int
    ) -> None:
        """Start with prompts.

        Args:
            prompts: Token ids, at least one each.
            numbers: The caller's number of each prompt.
            eos_token_id: Ends a response.
            max_new_tokens: Limit of a response, in tokens.
        """
        self.prompt_lens = torch.tensor([len(prompt) for prompt in prompts])
        self.lengths = self.prompt_lens.clone()
        self.tokens = torch.zeros(len(prompts), int(self.lengths.max()) + max_new_tokens, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            self.tokens[row, : len(prompt)] = torch.tensor(prompt)
        self.numbers = torch.tensor(numbers)
        self.done = torch.zeros(len(prompts), dtype=torch.bool)
        self.responses = {number: RoutedResponse() for number in numbers}
        self._eos_token_id = eos_token_id
        self._max_new_tokens = max_new_tokens

    def __len__(self) -> int:
        """Count rows."""
        return len(self.lengths)

    def unseen(self, starts: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens that a model hasn't processed.

        Args:
            starts: i64 [rows], tokens of every row of the batch that it has.
            rows: i64 [chosen], which rows; None: all.

        Returns:
            i64 [total], row after row, and i64 [chosen], how many each row has.
        """
        tokens, ends = (self.tokens, self.lengths) if rows is None else (self.tokens[rows], self.lengths[rows])
        begins = starts if rows is None else starts[rows]
        columns = torch.arange(tokens.size(1))
        return tokens[(columns >= begins[:, None]) & (columns < ends[:, None])], ends - begins

    def append(self, rows: Tensor, token_ids: Tensor, *, from_llm: bool, scores: Tensor | None = None) -> None:
        """Write one token to each of `rows` i64 [chosen]; a row at EOS or at the limit is done."""
        self.tokens[rows, self.lengths[rows]] = token_ids
        self.lengths[rows] += 1
        new_lens = self.lengths[rows] - self.prompt_lens[rows]
        self.done[rows] = (token_ids == self._eos_token_id) | (new_lens >= self._max_new_tokens)
        for at, (number, token_id) in enumerate(zip(self.numbers[rows].tolist(), token_ids.tolist(), strict=True)):
            response = self.responses[number]
            response.token_ids.append(token_id)
            response.from_llm.append(from_llm)
            if scores is not None:
                response.scores.append(float(scores[at]))

    def compact(self) -> Tensor | None:
        """Drop finished rows once many are.

        Returns:
            i64 [kept], the rows that stay, in their new order; None: nothing was dropped.
        """
        alive = (~self.done).nonzero().flatten()
        if len(alive) == len(self) or len(alive) > _ALIVE_SHARE * len(self):
            return None
        for name in ("tokens", "lengths", "prompt_lens", "numbers", "done"):
            setattr(self, name, getattr(self, name)[alive])
        return alive
