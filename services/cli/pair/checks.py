"""What can be wrong before a process is started.

Owns the checks that take no model and no torch: each names the flag, or the key of the pair file, that is to change.
"""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from urllib.parse import urlsplit

from router_service.checkpoint_files import CHECKPOINT_FILES
from services.cli.errors import CliError
from services.common.pair import ModelSection, Pair, RouterSection
from services.orchestrator.pair.rules import ServedRules
from services.rules.registry import Rules
from services.rules.sweep import SweepError

_ENGINES = {"transformers": ("torch", "engines"), "sglang": ("sglang", "sglang")}
"""The package that an engine needs, and the extra that brings it."""


def check_before_start(pair: Pair, port: int, redis_url: str | None, http_port: int | None = None) -> None:
    """Tells at once what a service would find out after its model is loaded.

    Args:
        pair: What is to be served.
        port: TCP port of the orchestrator; 0 picks one.
        redis_url: The Redis to use; None where one is started.
        http_port: TCP port of the gateway; 0 picks one, None is without one.

    Raises:
        CliError: Something can't be used.
    """
    _check_port(port, "--port")
    if http_port is not None:
        if http_port == port != 0:
            raise CliError(f"--http-port: {http_port} is the orchestrator's (--port); give another")
        _check_port(http_port, "--http-port")
    if redis_url is not None:
        check_redis_url(redis_url)
    for key, section in (("slm", pair.slm), ("llm", pair.llm)):
        _check_engine(section.engine.name or "transformers", f"{key}.engine.name")
        _check_model(section, f"{key}.model", pair.name)
    if pair.router is not None:
        _check_router(pair.router, pair.name)
    _check_rule(pair)


def check_redis_url(url: str) -> None:
    """Checks the form of a URL; whether a Redis is there is no fault, since answers go on without it.

    Raises:
        CliError: It isn't one. The message doesn't repeat it, because it may hold a password.
    """
    try:
        parts = urlsplit(url)
        has_place = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname) and parts.port != 0
        is_valid = has_place and parts.scheme in ("redis", "rediss", "unix")
    except ValueError:
        # A port that is no number, brackets that don't close.
        is_valid = False
    if not is_valid:
        raise CliError("--redis-url: expected redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH")


def check_state_dir(directory: Path) -> None:
    """Makes the folder where the state file and the logs go.

    Raises:
        CliError: It can't be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CliError(f"--state-dir: {directory} can't be made: {error.strerror}") from error


def _check_port(port: int, flag: str) -> None:
    with socket.socket() as probe_socket:
        # As gRPC binds: an old connection that is still closing is no one.
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind(("127.0.0.1", port))
        except OSError as error:
            raise CliError(f"can't listen on 127.0.0.1:{port}: {error.strerror}; give another with {flag}") from error


def _check_engine(name: str, key: str) -> None:
    package, extra = _ENGINES[name]
    if importlib.util.find_spec(package) is None:
        raise CliError(
            f"--engine: {name} ({key}) needs {package!r}: pip install 'trivium[{extra}]', or choose another"
        )


def _check_model(section: ModelSection, key: str, pair_name: str) -> None:
    """A Hugging Face id is looked up by the service, which may have to download it."""
    folder = Path(section.model)
    if folder.is_absolute() and not (folder / "config.json").is_file():
        raise CliError(f"--pair: {pair_name}: {key}: {folder} holds no config.json, so it is no model")


def _check_router(router: RouterSection, pair_name: str) -> None:
    assert router.checkpoint is not None
    folder = Path(router.checkpoint)
    for name in CHECKPOINT_FILES:
        if not (folder / name).is_file():
            what = f"holds no {name}" if folder.is_dir() else "is no folder"
            raise CliError(
                f"--router-checkpoint: {folder} {what}; give one that `trivium train` or `trivium import-router` "
                f"wrote (pair {pair_name}: router.checkpoint)"
            )


def _check_rule(pair: Pair) -> None:
    """As the orchestrator will do."""
    sweeps = [Path(path) for path in pair.rule_sweeps]
    try:
        ServedRules(Rules.installed(), pair.default_rule, sweeps, has_router=pair.router is not None)
    except SweepError as error:
        raise CliError(f"pair {pair.name}: rule_sweeps: {error}") from error
    except ValueError as error:
        raise CliError(f"pair {pair.name}: {error}") from error
