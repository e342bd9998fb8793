"""Which weights a model has: a commit of the Hugging Face Hub, or a digest of a folder's files.

Owns how such revisions are made and compared. Reads bytes alone.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

_CHUNK_BYTES = 2**24
_COMMIT, _DIGEST = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{16}")


class WeightsError(ValueError):
    """A folder's weights can't be told. The message names it."""


def digest_weights(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a folder's safetensors, in order of name.

    Raises:
        WeightsError: There are none, or one can't be read.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder}: holds no *.safetensors")
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise WeightsError(f"{path}: can't be read: {error.strerror}") from error
    return digest.hexdigest()[:16]


def folder_revision(folder: Path) -> str:
    """Which weights a folder holds: the commit of a snapshot of the Hub, else a digest.

    Raises:
        WeightsError: There are none.
    """
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return folder.name
    return digest_weights(folder)


def model_revision(model: str, revision: str = "") -> str:
    """Which weights a model has that was loaded on this machine.

    Args:
        model: Hugging Face id or local directory.
        revision: Commit, tag or branch of the Hub; empty for the default.

    Returns:
        Commit or digest; `revision` itself where the Hub's cache doesn't tell the commit.

    Raises:
        WeightsError: A directory holds no weights.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder_revision(folder)
    try:
        config = try_to_load_from_cache(model, "config.json", revision=revision or None)
    except HFValidationError:
        return revision
    return Path(config).parent.name if isinstance(config, str) else revision


def names_weights(revision: str) -> bool:
    """Whether a revision stands for the same weights everywhere and forever, as a commit and a digest do."""
    return bool(_COMMIT.fullmatch(revision) or _DIGEST.fullmatch(revision))


def are_other_weights(one: str, other: str) -> bool:
    """Whether two revisions are known to name different weights.

    A commit and a digest, or a branch, tell nothing about each other.
    """
    return one != other and any(kind.fullmatch(one) and kind.fullmatch(other) for kind in (_COMMIT, _DIGEST))
