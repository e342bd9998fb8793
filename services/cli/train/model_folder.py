"""Finds the files of a pair's models that router training reads.

Owns what is downloaded of a model that isn't a folder: of the small one everything, of the large one its size alone.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from services.cli.errors import CliError
from services.common.pair import ModelSection


def small_model_folder(section: ModelSection) -> Path:
    """The folder with a model's configuration, tokenizer and weights.

    Raises:
        CliError: It can't be had.
    """
    return _folder(section, ["*.json", "*.safetensors"])


def large_model_folder(section: ModelSection) -> Path:
    """The folder with what tells a model's size: the index of its shards, or its one file of weights.

    Raises:
        CliError: It can't be had.
    """
    return _folder(section, ["config.json", "model.safetensors.index.json", "model.safetensors"])


def _folder(section: ModelSection, patterns: list[str]) -> Path:
    if (folder := Path(section.model)).is_dir():
        return folder
    try:
        return Path(snapshot_download(section.model, revision=section.revision or None, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise CliError(f"model {section.model!r}: can't be downloaded: {error}") from error
