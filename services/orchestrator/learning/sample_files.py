"""Writes the sample to files, in the background and bounded.

Owns the files of a directory, which several orchestrators may share; their form is `services.common.draft_sample`'s.
The oldest ones go where there is too much. A disk that fails costs the sample and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trivium.v1 import common_pb2

from services.common.draft_sample import PREFIX, SUFFIX, DraftSample, write_sample
from services.orchestrator.learning.sample import SampledDraft

_PARTIAL = ".partial"
_INTERVAL_S = 60.0
_LEFTOVER_S = 3600.0
_MAX_WAITING_FILES = 4
_LEAST_FILES = 4

logger = logging.getLogger(__name__)


class SampleFiles:
    """A directory of samples.

    Args:
        folder: The directory; made where it is missing.
        max_bytes: What all files there may take together.
        pair: Tells the SLM and the LLM; None while they aren't known.
        drafts_per_file: So many are written at once; fewer after a minute.

    Raises:
        ValueError: The directory can't be made or written.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        *,
        pair: Callable[[], tuple[common_pb2.ModelInfo, common_pb2.ModelInfo] | None],
        drafts_per_file: int = 1024,
    ) -> None:
        self.num_kept = 0
        """Drafts that were written."""
        self.num_dropped = 0
        """Drafts that were not: they don't fit in half precision, or the disk failed or was too slow."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._pair = pair
        self._drafts_per_file = drafts_per_file
        self._waiting: list[tuple[SampledDraft, int]] = []
        self._is_full = asyncio.Event()
        self._failed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f"{PREFIX}{secrets.token_hex(8)}{_PARTIAL}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(f"sample_dir: {folder}: can't be written: {error.strerror}") from error

    def keep(self, draft: SampledDraft, llm_token_id: int) -> None:
        """Keeps a draft beside the LLM's token. It is written later."""
        is_finite = np.isfinite(draft.hidden_state).all() and np.isfinite(draft.top_logits).all()
        if not is_finite or len(self._waiting) >= _MAX_WAITING_FILES * self._drafts_per_file:
            self.num_dropped += 1
            return
        self._waiting.append((draft, llm_token_id))
        if len(self._waiting) >= self._drafts_per_file:
            self._is_full.set()

    async def run(self) -> None:
        """Writes what there is, when it fills a file or a minute is over, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_INTERVAL_S):
                    await self._is_full.wait()
            except TimeoutError:
                pass
            self._is_full.clear()
            await self.flush()

    async def flush(self) -> None:
        """Writes what there is."""
        pair = self._pair()
        waiting, self._waiting = self._waiting, []
        if not waiting or pair is None:
            return
        try:
            await asyncio.to_thread(self._write_all, waiting, *pair)
            self.num_kept += len(waiting)
            self._failed = False
        except OSError as error:
            self.num_dropped += len(waiting)
            if not self._failed:
                logger.error("the sample can't be written to %s: %s", self._folder, error)
            self._failed = True

    def _write_all(
        self, drafts: Sequence[tuple[SampledDraft, int]], slm: common_pb2.ModelInfo, llm: common_pb2.ModelInfo
    ) -> None:
        first, _ = drafts[0]
        draft_bytes = first.hidden_state.nbytes + first.top_logits.nbytes
        # A small directory has room for a few files, so that the oldest can go.
        per_file = max(1, min(self._drafts_per_file, self._max_bytes // _LEAST_FILES // draft_bytes))
        for start in range(0, len(drafts), per_file):
            self._write(drafts[start : start + per_file], slm, llm)

    def _write(
        self, drafts: Sequence[tuple[SampledDraft, int]], slm: common_pb2.ModelInfo, llm: common_pb2.ModelInfo
    ) -> None:
        # By chance: rows that follow one another must not read as an answer.
        shuffled = [drafts[index] for index in np.random.default_rng().permutation(len(drafts))]
        columns: dict[str, NDArray[Any]] = {
            "query_id": np.array([draft.query_id for draft, _ in shuffled], dtype=np.int64),
            "position": np.array([draft.position for draft, _ in shuffled], dtype=np.int32),
            "slm_token_id": np.array([draft.token_id for draft, _ in shuffled], dtype=np.int32),
            "llm_token_id": np.array([token_id for _, token_id in shuffled], dtype=np.int32),
            "hidden_state": np.stack([draft.hidden_state for draft, _ in shuffled]),
            "top_logits": np.stack([draft.top_logits for draft, _ in shuffled]),
        }
        # Names sort by age. Other orchestrators may write in the same moment.
        path = self._folder / f"{PREFIX}{time.time_ns():020}-{secrets.token_hex(4)}{SUFFIX}"
        aside = path.with_suffix(_PARTIAL)
        write_sample(aside, DraftSample({"slm": _identity(slm), "llm": _identity(llm)}, columns))
        aside.replace(path)
        self._make_room()

    def _make_room(self) -> None:
        now = time.time()
        for path in self._folder.glob(f"{PREFIX}*{_PARTIAL}"):
            if now - _modified(path, now) > _LEFTOVER_S:
                path.unlink(missing_ok=True)
        files = sorted(self._folder.glob(f"{PREFIX}*{SUFFIX}"))
        sizes = {path: _size(path) for path in files}
        total = sum(sizes.values())
        for path in files:
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= sizes[path]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        # Another orchestrator was quicker.
        return 0


def _modified(path: Path, default: float) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return default


def _identity(model: common_pb2.ModelInfo) -> Mapping[str, object]:
    return {
        "model_id": model.model_id,
        "revision": model.weights_revision or model.revision,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "tokenizer_sha256": model.tokenizer_sha256,
    }
