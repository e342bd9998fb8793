"""A labelling run that is killed and started again, against one that isn't."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from labeler_jobs.shards.store import ShardName
from labeler_jobs.stages.registry import STAGES
from services.cli.__main__ import app

pytestmark = pytest.mark.integration

NUM_SHARDS = 3
NUM_KILLS = 2
TIMEOUT_S = 240


def arguments(out: Path) -> list[str]:
    settings = {
        "--out": out, "--limit": 21, "--shards": NUM_SHARDS, "--max-new-tokens": 160, "--batch-size": 8,
        "--num-threads": 1,
    }  # fmt: skip
    return ["label", "all", *(str(part) for setting in settings.items() for part in setting)]


def start(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli", *arguments(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finished(out: Path) -> dict[Path, tuple[int, int]]:
    """When each shard took its place, and which file it is."""
    paths = [out / ShardName(stage.folder, index, NUM_SHARDS).path for stage in STAGES for index in range(NUM_SHARDS)]
    stats = {path: path.stat() for path in paths if path.exists()}
    return {path: (stat.st_mtime_ns, stat.st_ino) for path, stat in stats.items()}


def kill_after(out: Path, num_shards: int, delay_s: float) -> None:
    process = start(out)
    deadline = time.monotonic() + TIMEOUT_S
    while len(finished(out)) < num_shards and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    time.sleep(delay_s)
    process.kill()
    process.communicate()


def test_killed_and_resumed_run_gives_the_dataset_of_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, arguments(tmp_path / "whole")).exit_code == 0
    out = tmp_path / "killed"
    kept: dict[Path, tuple[int, int]] = {}
    generator = random.Random(time.time_ns())
    for num_shards in sorted(generator.sample(range(len(STAGES) * NUM_SHARDS - 1), NUM_KILLS)):
        kill_after(out, num_shards, generator.uniform(0.0, 0.3))
        now = finished(out)
        assert now.items() >= kept.items(), "a finished shard was made again"
        kept = now
    resumed = start(out)
    _, errors = resumed.communicate(timeout=TIMEOUT_S)
    assert resumed.returncode == 0, errors.decode()
    assert finished(out).items() >= kept.items(), "a finished shard was made again"
    for folder in [stage.folder for stage in STAGES]:
        for path in sorted((tmp_path / "whole" / folder).glob("*.parquet")):
            assert (out / folder / path.name).read_bytes() == path.read_bytes(), path.name
    statistics = [(run / "statistics.json").read_text() for run in (out, tmp_path / "whole")]
    assert statistics[0] == statistics[1]
    assert not list(out.rglob("*.aside"))
