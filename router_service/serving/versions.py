"""The routers that one process can score with: the one that is served, those before it, and a shadow.

Owns which weights are still held, and which new ones may take over. Doesn't know torch.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from trivium.v1 import router_pb2

from router_service.checkpoint_files import CheckpointError
from services.engines.base import TOP_LOGITS


class RowScorer(Protocol):
    """What the service needs of a router."""

    info: router_pb2.RouterInfo
    num_top_logits: int

    def score(
        self,
        token_ids: NDArray[np.int64],
        hidden_states: NDArray[np.float32],
        top_logits: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Scores [rows] drafted tokens."""

    def warm_up(self, num_rows: int) -> None:
        """Runs one forward of this many rows."""


class Versions:
    """Routers by their weights.

    Args:
        first: The router that is served first.
        most: Routers that are held at most, the shadow apart. Beyond it, the one goes that was asked for least
            recently.

    Attributes:
        current: The one that is served.
        shadow: One that decides nothing, if there is one.

    Raises:
        CheckpointError: It reads another number of logits than SLM services send.
    """

    def __init__(self, first: RowScorer, most: int) -> None:
        _check_logits(first)
        self.current = first
        self.shadow: RowScorer | None = None
        self._most = most
        # From the one that was asked for least recently to the one asked for last.
        self._held = {first.info.weights_sha256: first}

    @property
    def held(self) -> list[str]:
        """SHA-256 of the weights of each, the current one's first."""
        current = self.current.info.weights_sha256
        return [current, *(sha256 for sha256 in self._held if sha256 != current)]

    def named(self, weights_sha256: str) -> RowScorer | None:
        """Finds a router; None if it isn't held.

        Args:
            weights_sha256: Its weights; empty for the one that is served.
        """
        name = weights_sha256 or self.current.info.weights_sha256
        found = self._held.pop(name, None)
        if found is not None:
            self._held[name] = found
        elif self.shadow is not None and self.shadow.info.weights_sha256 == name:
            return self.shadow
        return found

    def swap(self, new: RowScorer) -> None:
        """Serves another router from now on.

        Raises:
            CheckpointError: It belongs to another SLM, or is of other sizes; the old one serves on.
        """
        self._check(new)
        self._held.pop(new.info.weights_sha256, None)
        self._held[new.info.weights_sha256] = self.current = new
        while len(self._held) > self._most:
            del self._held[next(iter(self._held))]

    def cast_shadow(self, new: RowScorer) -> None:
        """Takes another shadow; raises as `swap` does, and the old one stays."""
        self._check(new)
        self.shadow = new

    def _check(self, new: RowScorer) -> None:
        _check_logits(new)
        old_info, new_info = self.current.info, new.info
        for field in ("slm_revision", "tokenizer_sha256", "vocab_size", "hidden_size"):
            old_value, new_value = getattr(old_info, field), getattr(new_info, field)
            if old_value != new_value:
                raise CheckpointError(
                    f"{new_info.checkpoint}: {field}: it was trained with {new_value} of slm "
                    f"{new_info.slm_model_id!r}, and the router that is served with {old_value} of "
                    f"{old_info.slm_model_id!r}"
                )


def _check_logits(scorer: RowScorer) -> None:
    if scorer.num_top_logits != TOP_LOGITS:
        raise CheckpointError(
            f"{scorer.info.checkpoint}: num_top_logits is {scorer.num_top_logits}, and SLM services send {TOP_LOGITS}"
        )
