"""Oracle path-following: questions are decoded with the verifier in the loop instead of a router.

The SLM's token is kept unless the verifier finds that the LLM, writing on after it, says something else. Routers
learn labels of this kind, so the oracle bounds what they can reach. It costs an LLM continuation a fork: no way to
serve.

`path_following` decides; `oracle_row` says what a row needs next. Owned here is the batch: the LLM writes a token for
every row at a time, and pauses for SLM and verifier once enough rows have what they need from it.

Source: arXiv:2505.21600 §3.2, Algorithm 1 (sentence-level); deviation: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.decoding.oracle_row import OracleRow, RowReader
from evaluation.decoding.packed_decoder import PackedDecoder
from evaluation.decoding.path_following import FollowedPath
from evaluation.decoding.response import RoutedResponse
from evaluation.decoding.room import BATCH_SIZE
from labeler_jobs.models.huggingface import length_batches
from labeler_jobs.verifiers.verifier import Label, Verifier

_ALIVE_SHARE = 0.7
"""Finished rows are dropped once fewer than this share of a batch is left."""
_READY_SHARE = 0.2
"""The LLM pauses once this share of the unfinished rows needs no more of it for now."""


@torch.inference_mode()
def decode_oracle(
    slm: PreTrainedModel,
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    verifier: Verifier,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    max_sentence_len: int = 64,
    batch_size: int = BATCH_SIZE,
) -> list[RoutedResponse]:
    """Decodes prompts greedily, with the verifier's verdict on every fork.

    Args:
        slm: The small model.
        llm: The large model; its generation config names the EOS id.
        tokenizer: The pair's tokenizer.
        verifier: Judges forks.
        prompts: Prompt token ids.
        max_new_tokens: Limit of a response, in tokens.
        max_sentence_len: Limit of what the LLM writes after an SLM token, in tokens.
        batch_size: Prompts that are decoded together.

    Returns:
        One response per prompt, in order. Where the SLM's token diverged, the LLM's stands, with score 1; all other
        tokens are the SLM's, with score 0.

    Raises:
        VerifierUnreachable: If the verifier could not be asked.
    """
    reader = RowReader(tokenizer, llm.generation_config.eos_token_id, max_new_tokens, max_sentence_len)
    responses: dict[int, RoutedResponse] = {}
    for numbers in length_batches([len(prompt) for prompt in prompts], batch_size):
        rows = [OracleRow(reader, prompts[number]) for number in numbers]
        capacity = max(len(prompts[number]) for number in numbers) + reader.most_new_tokens
        _OracleBatch(rows, slm, llm, verifier, capacity).run()
        responses |= {number: _as_response(row.path) for number, row in zip(numbers, rows, strict=True)}
    return [responses[number] for number in range(len(prompts))]


def _as_response(path: FollowedPath) -> RoutedResponse:
    from_llm = [label == Label.DIVERGENT for label in path.labels]
    return RoutedResponse(list(path.token_ids), from_llm, [float(divergent) for divergent in from_llm])


class _OracleBatch:
    """Rows that are decoded together, and both models' state of them."""

    def __init__(
        self,
        rows: Sequence[OracleRow],
        slm: PreTrainedModel,
        llm: PreTrainedModel,
        verifier: Verifier,
        capacity: int,
    ) -> None:
        self._rows = list(rows)
        self._slm = _Follower(slm, len(rows), capacity)
        self._llm = _Follower(llm, len(rows), capacity)
        self._verifier = verifier

    def run(self) -> None:
        """Decodes to the end of every row."""
        while self._compact():
            alive = [number for number, row in enumerate(self._rows) if not row.done]
            ready = [number for number in alive if self._rows[number].ready]
            if len(ready) > _READY_SHARE * len(alive) or len(ready) == len(alive):
                self._serve(ready)
            else:
                self._write(set(alive) - set(ready))

    def _write(self, numbers: set[int]) -> None:
        """Lets the LLM write a token in these rows; the others run along, which is cheaper than to leave them out."""
        logits = self._llm.extend_all([row.target if n in numbers else None for n, row in enumerate(self._rows)])
        for number, token_id in enumerate(logits.argmax(dim=-1).tolist()):
            if number in numbers:
                self._rows[number].write(token_id)

    def _serve(self, numbers: list[int]) -> None:
        """Judges the forks of these rows, and follows their plans to the next one."""
        tried = [row for row in (self._rows[number] for number in numbers) if row.trying]
        for row, verdict in zip(tried, self._verifier.judge([row.case() for row in tried]), strict=True):
            row.settle(divergent=verdict.divergent)
        unread = [number for number in numbers if self._rows[number].unread]
        if unread:
            read = self._slm.extend_each(unread, [self._rows[number].planned for number in unread])
            for number, (first, token_ids) in zip(unread, read, strict=True):
                self._rows[number].read(first, token_ids)
        for number in numbers:
            self._rows[number].advance()

    def _compact(self) -> bool:
        """Drops finished rows once many are; tells whether any is left."""
        alive = [number for number, row in enumerate(self._rows) if not row.done]
        if alive and len(alive) <= _ALIVE_SHARE * len(self._rows):
            self._rows = [self._rows[number] for number in alive]
            self._slm.keep(alive)
            self._llm.keep(alive)
        return bool(alive)


class _Follower:
    """A model that follows rows wherever they go: what it has of a row, it keeps as far as it still holds."""

    def __init__(self, model: PreTrainedModel, num_rows: int, capacity: int) -> None:
        self._decoder = PackedDecoder(model, num_rows, capacity)
        self._held: list[tuple[int, ...]] = [()] * num_rows

    def extend_all(self, targets: Sequence[tuple[int, ...] | None]) -> Tensor:
        """Logits f32 [rows, vocab] after each row's target; a row without one stays as it is."""
        wanted = [held if target is None else target for target, held in zip(targets, self._held, strict=True)]
        starts = [self._rewound(number, target) for number, target in enumerate(wanted)]
        # All but the last token of the rows that are behind, so that one of them doesn't widen the pass of all.
        behind = [number for number, start in enumerate(starts) if start < len(wanted[number]) - 1]
        if behind:
            self._extend(behind, [wanted[number][:-1] for number in behind])
        token_ids = torch.tensor([target[-1] for target in wanted])
        self._rewind()
        _, logits = self._decoder.extend(token_ids, torch.ones(len(wanted), dtype=torch.long))
        self._held = wanted
        return logits

    def extend_each(self, numbers: Sequence[int], targets: Sequence[tuple[int, ...]]) -> list[tuple[int, list[int]]]:
        """Greedy tokens after each new token of these rows, with the position that the first of them is for."""
        starts = [self._rewound(number, target) for number, target in zip(numbers, targets, strict=True)]
        logits = self._extend(numbers, targets)
        counts = [len(target) - start for target, start in zip(targets, starts, strict=True)]
        token_ids = torch.split(logits.argmax(dim=-1), counts)
        return [(start + 1, row.tolist()) for start, row in zip(starts, token_ids, strict=True)]

    def keep(self, numbers: list[int]) -> None:
        """Drops all rows but these; they are numbered anew, in this order."""
        self._decoder.keep(torch.tensor(numbers))
        self._held = [self._held[number] for number in numbers]

    def _rewound(self, number: int, target: tuple[int, ...]) -> int:
        """Forgets what the target doesn't share, and its last token, which has to be run; tells what is left."""
        held = self._held[number]
        shared = len(held)
        if target[:shared] != held:
            shared = next(at for at, pair in enumerate(zip(held, target, strict=False)) if pair[0] != pair[1])
        self._held[number] = held[: min(shared, len(target) - 1)]
        return len(self._held[number])

    def _extend(self, numbers: Sequence[int], targets: Sequence[tuple[int, ...]]) -> Tensor:
        self._rewind()
        new = [target[len(self._held[number]) :] for number, target in zip(numbers, targets, strict=True)]
        counts = torch.tensor([len(token_ids) for token_ids in new])
        logits = self._decoder.extend_each(torch.tensor(list(chain(*new))), counts, torch.tensor(numbers))
        for number, target in zip(numbers, targets, strict=True):
            self._held[number] = target
        return logits

    def _rewind(self) -> None:
        self._decoder.rewind(torch.tensor([len(held) for held in self._held]))
