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
        item.add_marker(pytest.mark.xdist_group(_group(item, config.rootpath)))
    # Those that run alone end their group: its worker waits for others once, not in its midst.
    items.sort(key=lambda item: (_rank(item, config.rootpath), _runs_alone(item)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not _is_worker(item.config):
        return (yield)
    # Outside of the test's own timeout, which begins within.
    with _machine(item.config.rootpath, alone=_runs_alone(item)):
        return (yield)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _runs_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def _group(item: pytest.Item, root: Path) -> str:
    fixtures: list[str] = getattr(item, "fixturenames", [])
    if _folder(item, root) == "integration" and "pair" in fixtures:
        return "the running pair"
    if "engine_name" in fixtures:
        parameters: dict[str, object] = item.callspec.params  # type: ignore[attr-defined]
        return f"the engines of {parameters['engine_name']}"
    return item.nodeid.partition("::")[0]


def _rank(item: pytest.Item, root: Path) -> int:
    folder = _folder(item, root)
    return FIRST.index(folder) if folder in FIRST else len(FIRST)


def _folder(item: pytest.Item, root: Path) -> str:
    """The part of the tests, e.g. "unit"."""
    return item.path.relative_to(root / "tests").parts[0]


@contextmanager
def _machine(root: Path, *, alone: bool) -> Iterator[None]:
    """Holds the machine, together with other workers or alone: a lock on the folder that all of them run in."""
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)
