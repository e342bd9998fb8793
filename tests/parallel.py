"""Hooks for workers of pytest-xdist: which tests share one, in which order groups begin, and which tests run alone.

Tests that share something that takes long to start are one group, which one worker runs; else a module is a group. A
test that is marked `alone` begins once no other worker runs a test, and none does until it has ended.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FIRST = ("integration", "contract", "unit")
"""Folders in the order in which their groups begin: small ones last, so that workers end at about the same time."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not _is_worker(config):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: _rank(item, config.rootpath))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not _is_worker(item.config):
        return (yield)
    # Outside of the test's own timeout, which begins within.
    with _machine(item.config.rootpath, alone=item.get_closest_marker("alone") is not None):
        return (yield)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _group(item: pytest.Item) -> str:
    fixtures: list[str] = getattr(item, "fixturenames", [])
    if "pair" in fixtures:
        return "the running pair"
    if "engine_name" in fixtures:
        parameters: dict[str, object] = item.callspec.params  # type: ignore[attr-defined]
        return f"the engines of {parameters['engine_name']}"
    return item.nodeid.partition("::")[0]


def _rank(item: pytest.Item, root: Path) -> int:
    _, folder, *_ = item.path.relative_to(root).parts
    return FIRST.index(folder) if folder in FIRST else len(FIRST)


@contextmanager
def _machine(root: Path, *, alone: bool) -> Iterator[None]:
    """Holds the machine, together with other workers or alone: a lock on the folder that all of them run in."""
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)
