"""What decides which tests share a worker, and which run alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.parallel import group_of, held


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/contract/test_slm_engine.py::test_drafts[sglang]", "the engines of SGLang"),
        ("tests/contract/test_slm_cache.py::test_drafts[sglang-0]", "the engines of SGLang"),
        ("tests/contract/test_slm_engine.py::test_drafts[fake]", "tests/contract/test_slm_engine.py"),
        ("tests/integration/generation/test_exactness.py::test_services", "the running pair"),
        ("tests/integration/faults/test_faults.py::test_redis[sglang]", "the running pair"),
        ("tests/integration/test_readme.py::test_readme", "tests/integration/test_readme.py"),
        ("tests/unit/test_parallel.py::test_group", "tests/unit/test_parallel.py"),
    ],
)
def test_group_is_the_module_or_what_takes_long_to_start(nodeid: str, group: str) -> None:
    assert group_of(nodeid) == group


def is_free(folder: Path, *, alone: bool) -> bool:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_NB | (fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def test_held_alone_lets_nobody_else_in(tmp_path: Path) -> None:
    with held(tmp_path, alone=True):
        assert not is_free(tmp_path, alone=False)
    assert is_free(tmp_path, alone=True)


def test_held_together_keeps_out_only_who_wants_to_be_alone(tmp_path: Path) -> None:
    with held(tmp_path, alone=False), held(tmp_path, alone=False):
        assert is_free(tmp_path, alone=False)
        assert not is_free(tmp_path, alone=True)
