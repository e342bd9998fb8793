"""What is installed here that Trivium uses.

Owns the list of components. Reads package metadata and looks for one binary; imports none of them.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from services.cli.errors import CliError
from services.cli.pair.redis_server import find_redis_binary


@dataclass(frozen=True, slots=True)
class Component:
    """One thing that may be installed.

    Attributes:
        name: Its name.
        version: Its version, or where it is; None if it isn't there.
        purpose: What Trivium needs it for.
        required: Whether `trivium up` can't work without it.
        remedy: What to do if it is missing.
    """

    name: str
    version: str | None
    purpose: str
    required: bool = True
    remedy: str = "install Trivium anew (make install)"


def installed_components() -> list[Component]:
    """Looks for everything that Trivium uses on this machine."""
    return [
        Component("python", platform.python_version(), "everything"),
        Component("trivium", _version("trivium"), "everything"),
        Component("grpcio", _version("grpcio"), "all services"),
        Component("torch", _version("torch"), "models, routers; optional where none runs", required=False),
        Component("transformers", _version("transformers"), "tokenizers, the default engine"),
        Component("sglang", _version("sglang"), "the engine for GPUs; optional", required=False),
        Component("redis-server", _redis(), "the prefix index; optional with --redis-url", required=False),
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _redis() -> str | None:
    try:
        return str(find_redis_binary())
    except CliError:
        return None
