"""Decodes many sequences of different lengths with one model and no copies of its KV.

Owns the KV of a batch. New tokens of all rows are packed into one sequence of length `total`, so that no matrix
product sees padding; only attention pads the queries of a pass to the longest row. KV lies in preallocated tensors,
is written in place and is read through views. Who writes which token is `oracle`'s.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from labeler_jobs.models.huggingface import output_logits
from services.engines.transformers.attention import GROUPED_ATTENTION


@dataclass(frozen=True)
class _Pass:
    """Where the new tokens of one pass belong.

    Attributes:
        rows: i64 [chosen], the rows that take part; None: all.
        row_of: i64 [total], index into the chosen rows of every new token.
        positions: i64 [total], its position in its row.
        packed_index: i64 [total], its place in the flattened [chosen, query_len]; query_len: new tokens of the row
            that has most.
        kv_len: Tokens of the longest chosen row after the pass.
        mask: f32 [chosen, 1, query_len, kv_len], additive.
    """

    rows: Tensor | None
    row_of: Tensor
    positions: Tensor
    packed_index: Tensor
    kv_len: int
    mask: Tensor

    @classmethod
    def plan(cls, rows: Tensor | None, starts: Tensor, counts: Tensor) -> _Pass:
        """Plans a pass over `counts` i64 [chosen] new tokens after `starts` i64 [chosen] old ones."""
        num_rows, query_len = len(counts), int(counts.max())
        row_of = torch.repeat_interleave(torch.arange(num_rows), counts)
        offset_of = torch.arange(len(row_of)) - (counts.cumsum(0) - counts)[row_of]
        kv_len = int((starts + counts).max())
        # A padded query sees what the first new token sees, and its output is dropped.
        offsets = torch.arange(query_len).expand(num_rows, -1)
        seen = starts[:, None] + torch.where(offsets < counts[:, None], offsets, 0)
        hidden = torch.arange(kv_len) > seen[:, :, None]
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, torch.finfo(torch.float32).min).unsqueeze(1)
        return cls(rows, row_of, starts[row_of] + offset_of, row_of * query_len + offset_of, kv_len, mask)


class _RowCache(Cache):
    """A `transformers` cache of [rows, kv_heads, capacity, head] per layer, written in place."""

    def __init__(self, model: PreTrainedModel, num_rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        config = model.config
        shape = (num_rows, config.num_key_value_heads, capacity, config.head_dim)
        # Zeros: what is masked is read all the same, and a masked NaN is still a NaN.
        self.keys = [torch.zeros(shape) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros(shape) for _ in range(config.num_hidden_layers)]
        self.current: _Pass | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes [1, kv_heads, total, head]; returns what the pass reads, [chosen, kv_heads, kv_len, head]."""
        plan = self.current
        assert plan is not None
        row_of = plan.row_of if plan.rows is None else plan.rows[plan.row_of]
        read = []
        for pool, new in ((self.keys[layer_idx], key_states), (self.values[layer_idx], value_states)):
            pool[row_of, :, plan.positions] = new[0].transpose(0, 1)
            filled = pool[:, :, : plan.kv_len]
            read.append(filled if plan.rows is None else filled[plan.rows])
        return read[0], read[1]

    def keep(self, rows: Tensor) -> None:
        """Drops all but `rows` i64 [kept]."""
        self.keys = [pool[rows] for pool in self.keys]
        self.values = [pool[rows] for pool in self.values]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Unused: positions are always given."""
        return 0


class PackedDecoder:
    """A model and the KV of a batch of sequences.

    Attributes:
        lengths: i64 [rows], tokens of each row that the model has processed.
    """

    def __init__(self, model: PreTrainedModel, num_rows: int, capacity: int) -> None:
        """Makes room.

        Args:
            model: A causal language model of full attention, in float32 on the CPU, whose logits are its output
                embedding's product with the last hidden state. It stays as it is; its weights are shared.
            num_rows: Sequences.
            capacity: Tokens of the longest of them.
        """
        shared: dict[int, object] = {id(parameter): parameter for parameter in model.parameters()}
        self._model = copy.deepcopy(model, shared)
        self._model.set_attn_implementation(GROUPED_ATTENTION)
        self._cache = _RowCache(model, num_rows, capacity)
        self.lengths = torch.zeros(num_rows, dtype=torch.long)

    def extend(self, token_ids: Tensor, counts: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Processes new tokens.

        Args:
            token_ids: i64 [total], the new tokens of the first chosen row, then those of the next.
            counts: i64 [chosen], new tokens of each chosen row, at least one.
            rows: i64 [chosen], which rows; None: all, in order.

        Returns:
            f32 [chosen, hidden], the last layer's hidden state of each row's last token after the final norm, and
            f32 [chosen, vocab] raw logits.
        """
        hidden_state = self._run(token_ids, counts, rows)[counts.cumsum(0) - 1]
        return hidden_state, output_logits(self._model, hidden_state)

    def extend_each(self, token_ids: Tensor, counts: Tensor, rows: Tensor | None = None) -> Tensor:
        """Processes new tokens as `extend` does.

        Returns:
            f32 [total, vocab], raw logits after every new token.
        """
        return output_logits(self._model, self._run(token_ids, counts, rows))

    def _run(self, token_ids: Tensor, counts: Tensor, rows: Tensor | None) -> Tensor:
        starts = self.lengths if rows is None else self.lengths[rows]
        plan = _Pass.plan(rows, starts, counts)
        self._cache.current = plan
        hidden_state: Tensor = self._model.base_model(
            input_ids=token_ids[None],
            position_ids=plan.positions[None],
            attention_mask=plan.mask,
            past_key_values=self._cache,
            use_cache=True,
            packed_index=plan.packed_index,
        ).last_hidden_state[0]
        if rows is None:
            self.lengths = starts + counts
        else:
            self.lengths[rows] = starts + counts
        return hidden_state

    def rewind(self, lengths: Tensor) -> None:
        """Forgets what lies behind `lengths` i64 [rows]."""
        self.lengths = torch.minimum(self.lengths, lengths)

    def keep(self, rows: Tensor) -> None:
        """Drops all but `rows` i64 [kept]; they are numbered anew, in this order."""
        self._cache.keep(rows)
        self.lengths = self.lengths[rows]
