"""Finds the files that router training reads of a pair's models, and those that an import reads.

Owns what is downloaded of a model that isn't a folder: of the small one everything, of the large one its size alone.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download

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


def published_file(source: str, file: str | None) -> Path:
    """A published router's file.

    Args:
        source: The file; or a Hugging Face id, with an optional `@revision`, of the repository that has it.
        file: Its path in the repository; None where `source` is the file.

    Raises:
        CliError: It can't be had.
    """
    if file is None:
        if not Path(source).exists():
            raise CliError(f"{source}: no such file; of a Hugging Face repository, name the file with --file")
        return Path(source)
    repository, _, revision = source.partition("@")
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except (OSError, ValueError) as error:
        told = " ".join(str(error).split())
        raise CliError(f"{file!r} of {repository!r}: can't be downloaded: {told}") from error


def _folder(section: ModelSection, patterns: list[str]) -> Path:
    if (folder := Path(section.model)).is_dir():
        return folder
    try:
        return Path(snapshot_download(section.model, revision=section.revision or None, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise CliError(f"model {section.model!r}: can't be downloaded: {error}") from error
