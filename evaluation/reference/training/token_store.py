"""The training range as one flat array of token ids, and batches of similar length drawn from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from evaluation.reference.corpus.samples import training_samples
from evaluation.reference.training.tokenizer import END_TOKEN, START_TOKEN
from services.common.progress import track

IGNORED = -100
"""Label of a position that the loss leaves out."""
LENGTH_STEP = 8
"""Batches are padded to a multiple of this, which vector instructions like."""
_POOL_BATCHES = 64
_TOKENIZER_BATCH = 2000


@dataclass(frozen=True)
class TokenStore:
    """Tokenized conversations.

    Attributes:
        token_ids: int16 [num_tokens], conversations one after the other.
        ends: int64 [num_conversations], where each of them ends.
        prompt_lens: int64 [num_conversations], how many of its first ids are the prompt.
    """

    token_ids: NDArray[np.int16]
    ends: NDArray[np.int64]
    prompt_lens: NDArray[np.int64]

    @classmethod
    def tokenize(cls, tokenizer: PreTrainedTokenizerFast, num_samples: int) -> "TokenStore":
        """Tokenizes the first samples of the training range as chats that end with the end-of-turn token."""
        token_ids: list[NDArray[np.int16]] = []
        lengths: list[int] = []
        prompt_lens: list[int] = []
        samples = iter(track(training_samples(num_samples), "tokens", num_samples))
        while group := list(islice(samples, _TOKENIZER_BATCH)):
            prompts = [f"{START_TOKEN}user\n{s.query}{END_TOKEN}\n{START_TOKEN}assistant\n" for s in group]
            answers = [f"{s.response}{END_TOKEN}" for s in group]
            prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
            answer_ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
            for prompt, answer in zip(prompt_ids, answer_ids, strict=True):
                token_ids.append(np.array(prompt + answer, dtype=np.int16))
                lengths.append(len(prompt) + len(answer))
                prompt_lens.append(len(prompt))
        return cls(np.concatenate(token_ids), np.cumsum(lengths), np.array(prompt_lens))

    def save(self, path: Path) -> None:
        """Writes all arrays to one `.npz` file."""
        np.savez(path, token_ids=self.token_ids, ends=self.ends, prompt_lens=self.prompt_lens)

    @classmethod
    def load(cls, path: Path) -> "TokenStore":
        """Reads what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["token_ids"], arrays["ends"], arrays["prompt_lens"])

    def batches(self, batch_size: int, pad_token_id: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields batches without end, each epoch in an order of its own.

        Args:
            batch_size: Conversations in a batch.
            pad_token_id: Id that fills rows on the right.
            seed: Seed of the order.

        Yields:
            Input ids i64 [batch, length] and labels i64 [batch, length]: the next token where it belongs to the
            response, `IGNORED` elsewhere.
        """
        rng = np.random.default_rng(seed)
        lengths = np.diff(self.ends, prepend=0)
        while True:
            order = rng.permutation(len(self.ends))
            for start in range(0, len(order), batch_size * _POOL_BATCHES):
                pool = order[start : start + batch_size * _POOL_BATCHES]
                pool = pool[np.argsort(lengths[pool], kind="stable")]
                cuts = [pool[at : at + batch_size] for at in range(0, len(pool) - batch_size + 1, batch_size)]
                for index in rng.permutation(len(cuts)):
                    yield self._collate(cuts[index], pad_token_id)

    def _collate(self, rows: NDArray[np.int64], pad_token_id: int) -> tuple[Tensor, Tensor]:
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        longest = int((self.ends[rows] - starts).max()) - 1
        width = -(-longest // LENGTH_STEP) * LENGTH_STEP
        inputs = np.full((len(rows), width), pad_token_id, dtype=np.int64)
        labels = np.full((len(rows), width), IGNORED, dtype=np.int64)
        for at, (row, start) in enumerate(zip(rows, starts, strict=True)):
            ids = self.token_ids[start : self.ends[row]]
            inputs[at, : len(ids) - 1] = ids[:-1]
            first = self.prompt_lens[row] - 1
            labels[at, first : len(ids) - 1] = ids[first + 1 :]
        return torch.from_numpy(inputs), torch.from_numpy(labels)
