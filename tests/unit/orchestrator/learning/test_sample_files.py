"""Files of the sample: whole, bounded, and no burden where the disk fails."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import numpy as np
import pytest
from trivium.v1 import common_pb2

from services.common.draft_sample import read_sample
from services.orchestrator.learning.sample import SampledDraft
from services.orchestrator.learning.sample_files import SampleFiles
from tests.serving import until

SLM = common_pb2.ModelInfo(
    model_id="small", weights_revision="abc", vocab_size=9, hidden_size=4, tokenizer_sha256="t"
)
LLM = common_pb2.ModelInfo(model_id="large", revision="main", vocab_size=9, hidden_size=8, tokenizer_sha256="t")


def draft(number: int, fill: float = 1.0) -> SampledDraft:
    return SampledDraft(7, number, number % 9, np.full(4, fill, np.float16), np.full(100, fill, np.float16))


def files_in(folder: Path, **options: int) -> SampleFiles:
    return SampleFiles(folder, options.pop("max_bytes", 2**20), pair=lambda: (SLM, LLM), **options)


def in_folder(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def test_what_was_kept_is_read_again_with_its_pair(tmp_path: Path) -> None:
    files = files_in(tmp_path / "new" / "folder")
    for number in range(10):
        files.keep(draft(number), 3)
    await files.flush()
    [path] = in_folder(tmp_path / "new" / "folder")
    sample = read_sample(path)
    assert sorted(sample.columns["position"].tolist()) == list(range(10))
    assert sample.columns["slm_token_id"].tolist() == [each % 9 for each in sample.columns["position"].tolist()]
    assert set(sample.columns["llm_token_id"].tolist()) == {3}
    assert (sample.pair["slm"]["revision"], sample.pair["llm"]["revision"]) == ("abc", "main")
    assert (files.num_kept, files.num_dropped) == (10, 0)
    await files.flush()
    assert in_folder(path.parent) == [path]


async def test_full_file_is_written_without_waiting(tmp_path: Path) -> None:
    files = files_in(tmp_path, drafts_per_file=4)
    running = asyncio.create_task(files.run())
    for number in range(4):
        files.keep(draft(number), 0)
    await until(lambda: files.num_kept == 4, timeout_s=20)
    running.cancel()
    assert len(in_folder(tmp_path)) == 1


async def test_oldest_files_go_where_there_is_too_much(tmp_path: Path) -> None:
    files = files_in(tmp_path, max_bytes=8000)
    for number in range(20):
        files.keep(draft(number), 0)
        await files.flush()
    left = in_folder(tmp_path)
    assert 1 < len(left) < 20
    assert sum(path.stat().st_size for path in left) <= 8000
    assert read_sample(left[-1]).columns["position"].tolist() == [19]


async def test_small_directory_holds_the_newest_of_many_drafts(tmp_path: Path) -> None:
    files = files_in(tmp_path, max_bytes=20_000)
    for number in range(500):
        files.keep(draft(number), 0)
    await files.flush()
    sizes = [path.stat().st_size for path in in_folder(tmp_path)]
    assert 10_000 < sum(sizes) <= 20_000
    assert files.num_kept == 500


async def test_leftovers_of_a_crash_go_when_they_are_old(tmp_path: Path) -> None:
    old, new = tmp_path / "sample-1.partial", tmp_path / "sample-2.partial"
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    files = files_in(tmp_path)
    files.keep(draft(0), 0)
    await files.flush()
    assert not old.exists()
    assert new.exists()


async def test_draft_that_does_not_fit_in_half_precision_is_dropped(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.keep(draft(0, float("inf")), 0)
    await files.flush()
    assert (files.num_kept, files.num_dropped, in_folder(tmp_path)) == (0, 1, [])


async def test_disk_that_fails_costs_the_sample_and_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    files = files_in(folder)
    folder.rmdir()
    for number in range(3):
        files.keep(draft(number), 0)
        await files.flush()
    assert (files.num_kept, files.num_dropped) == (0, 3)
    assert sum("the sample can't be written" in record.getMessage() for record in caplog.records) == 1
    folder.mkdir()
    files.keep(draft(4), 0)
    await files.flush()
    assert files.num_kept == 1


async def test_slow_disk_drops_drafts_and_holds_no_more_than_a_few_files(tmp_path: Path) -> None:
    files = files_in(tmp_path, drafts_per_file=2)
    for number in range(20):
        files.keep(draft(number), 0)
    assert files.num_dropped == 12


def test_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^sample_dir: .*file: can't be written"):
        files_in(tmp_path / "file")
