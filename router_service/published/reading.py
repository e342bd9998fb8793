"""Reads a published router's file safely: tensors and plain values out, or one line that says what is wrong.

Owns the limits, and the child process that does the reading. What the values mean is `published.layout`'s.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

_CHILD = Path(__file__).with_name("unpickle.py")
_MAX_ANSWER_BYTES = 2**16
_MAX_MESSAGE = 400
_HEADER_BYTES = 2**22


class PublishedRouterError(ValueError):
    """A file isn't a published router that can be imported. The message names it, and the field if there is one."""


@dataclass(frozen=True)
class ReadingLimits:
    """What reading a file may take.

    Attributes:
        max_file_bytes: Larger files aren't opened. The largest published ones hold an SLM's embedding too.
        spare_memory_bytes: Memory beyond twice the file's size.
        cpu_s: Seconds of CPU time.
        wall_s: Seconds from start to end.
    """

    max_file_bytes: int = 8 * 2**30
    spare_memory_bytes: int = 2**29
    cpu_s: int = 120
    wall_s: float = 300.0


@dataclass(frozen=True)
class PublishedFile:
    """What a file holds.

    Attributes:
        path: The file.
        tensors: Of `state_dict`, by name, of any floating type.
        fields: Everything else, as JSON has it.
    """

    path: Path
    tensors: dict[str, Tensor]
    fields: dict[str, Any]


def read_published_file(path: Path, limits: ReadingLimits | None = None) -> PublishedFile:
    """Reads a file that `torch.save` wrote, in a process without network, files and environment.

    Args:
        path: The file.
        limits: What it may take.

    Raises:
        PublishedRouterError: It can't be read, is too large, or holds anything but tensors and plain values.
    """
    limits = limits or ReadingLimits()
    with _opened(path, limits) as (source, size), tempfile.TemporaryDirectory(prefix="trivium-import-") as folder:
        target = Path(folder) / "tensors.safetensors"
        refused = _convert(source, target, size, limits)
        if refused is not None:
            raise PublishedRouterError(f"{path}: {refused}")
        try:
            with safe_open(target, framework="pt") as file:
                fields = json.loads(file.metadata()["fields"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise PublishedRouterError(f"{path}: its reader left nothing usable: {error}") from error
    return PublishedFile(path, tensors, fields)


@contextmanager
def _opened(path: Path, limits: ReadingLimits) -> Iterator[tuple[IO[bytes], int]]:
    try:
        # Opening a pipe would wait for its other end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise PublishedRouterError(f"{path}: is no file")
        source = path.open("rb")
    except OSError as error:
        raise PublishedRouterError(f"{path}: can't be opened: {error.strerror}") from error
    with source:
        size = os.fstat(source.fileno()).st_size
        if size > limits.max_file_bytes:
            raise PublishedRouterError(
                f"{path}: has {size} bytes; a router's file has at most {limits.max_file_bytes}"
            )
        yield source, size


def _convert(source: IO[bytes], target: Path, size: int, limits: ReadingLimits) -> str | None:
    """Has the child read the source and write the target; returns why it didn't."""
    kernel_limits = {
        "memory_bytes": 2 * size + limits.spare_memory_bytes,
        "cpu_s": limits.cpu_s,
        "output_bytes": size + _HEADER_BYTES,
    }
    with target.open("wb") as written, tempfile.TemporaryFile() as answer:
        descriptors = (source.fileno(), written.fileno())
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(_CHILD), *map(str, descriptors), json.dumps(kernel_limits)],
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                pass_fds=descriptors,
                cwd="/",
                env={"OMP_NUM_THREADS": "1"},
                timeout=limits.wall_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"took more than {limits.wall_s:g} s to read"
        answer.seek(0)
        told = _answer(answer.read(_MAX_ANSWER_BYTES))
    if told is None:
        return f"its reader ended with code {done.returncode}, without a word: it took too much memory or time"
    refused = told.get("refused")
    if refused is None:
        return None
    # It may repeat what the file holds.
    return "".join(letter if letter.isprintable() else " " for letter in str(refused)[:_MAX_MESSAGE])


def _answer(content: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(content)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None
