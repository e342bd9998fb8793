"""An encoder classifier: a small bidirectional transformer that reads the query's tokens, trained from nothing.

Source: arXiv:2406.18665 §4.2; deviation: no pretrained encoder knows this vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluation.query_routing.queries import QuerySet, pad_right
from evaluation.query_routing.training import ClassifierTraining, predict, train_classifier

_WIDTH = 48
_NUM_LAYERS = 2
_NUM_HEADS = 4
_MAX_LEN = 512
_PADDING = -1
_TRAINING = ClassifierTraining(learning_rate=1e-3, weight_decay=1e-2, max_epochs=12)


class _Encoder(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, _WIDTH)
        self.positions = nn.Embedding(_MAX_LEN, _WIDTH)
        layer = nn.TransformerEncoderLayer(
            _WIDTH, _NUM_HEADS, 4 * _WIDTH, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _NUM_LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(_WIDTH, 1)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Maps i64 [batch, length], padded on the right with -1, to logits f32 [batch]."""
        real = token_ids != _PADDING
        # Batches hold queries of any length; columns that are padding in all of them are dropped.
        real = real[:, : int(real.sum(dim=1).max())]
        x = self.tokens(token_ids[:, : real.size(1)].clamp_min(0)) + self.positions.weight[: real.size(1)]
        x = self.layers(x, src_key_padding_mask=~real)
        mean = (x * real[:, :, None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
        logit: Tensor = self.head(mean).squeeze(-1)
        return logit


class EncoderRouter:
    """An encoder classifier."""

    name = "qr_encoder"

    def __init__(self, vocab_size: int) -> None:
        """Builds nothing yet.

        Args:
            vocab_size: Token ids lie below this.
        """
        self._vocab_size = vocab_size

    def fit(self, queries: QuerySet, needs_llm: Tensor, seed: int) -> None:
        """Trains the encoder."""
        torch.manual_seed(seed)
        self._model = _Encoder(self._vocab_size)
        train_classifier(self._model, _inputs(queries), needs_llm, _TRAINING, seed)

    def scores(self, queries: QuerySet) -> Tensor:
        """Logits."""
        return predict(self._model, _inputs(queries))


def _inputs(queries: QuerySet) -> Tensor:
    return pad_right([prompt[:_MAX_LEN] for prompt in queries.prompts], _PADDING)
