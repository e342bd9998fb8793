"""Hooks for workers of pytest-xdist: which tests share one, in which order groups begin, and which tests run alone.

A module's tests are a group, which one worker runs. Modules that share something that takes long to start are one. A
test that is marked `alone` begins once no other worker runs a test, and none does until it has ended.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

FIRST = ("integration", "contract", "unit")
"""Folders in the order in which their groups begin: small ones last, so that workers end at about the same time."""

ROOT = Path(__file__).parents[1]


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types.
    """Gives a group to each worker that is about to have nothing to do."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # Groups begin in the order of the tests, not with the one that has most of them.
        self.config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _is_worker(config):
        # Those that run alone end their group: its worker waits for others once, not in its midst.
        items.sort(key=lambda item: (_rank(item.nodeid), _runs_alone(item)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not _is_worker(item.config):
        return (yield)
    # Outside of the test's own timeout, which begins within.
    with held(ROOT, alone=_runs_alone(item)):
        return (yield)


def group_of(nodeid: str) -> str:
    """Names the group of a test, e.g. of "tests/contract/test_slm_engine.py::test_drafts[sglang]"."""
    module, _, name = nodeid.partition("::")
    if _folder(nodeid) == "contract" and "[sglang" in name:
        return "the engines of SGLang"
    if _uses_the_running_pair(module):
        return "the running pair"
    return module


@cache
def _uses_the_running_pair(module: str) -> bool:
    return "from tests.integration.harness.pair import" in (ROOT / module).read_text(encoding="utf-8")


def _rank(nodeid: str) -> int:
    folder = _folder(nodeid)
    return FIRST.index(folder) if folder in FIRST else len(FIRST)


def _folder(nodeid: str) -> str:
    """The part of the tests, e.g. "unit"."""
    return nodeid.split("/")[1]


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _runs_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@contextmanager
def held(folder: Path, *, alone: bool) -> Iterator[None]:
    """Waits for a lock on a folder: alone, or together with all who don't ask for it alone."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)
