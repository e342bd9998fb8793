"""A router on disk: `router.safetensors` with its weights and `router.json` with everything else. No pickle.

The SLM's input embedding may travel with the router as tensor `slm_embedding`; left out, it is read from the SLM's
own safetensors, that one tensor alone.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from router_service.checkpoint_files import DESCRIPTION_FILE, WEIGHTS_FILE, CheckpointError
from router_service.description import ModelIdentity, RouterDescription, read_description, write_description
from router_service.model import Router
from services.common.files.json_file import read_json_object
from services.common.weights import WeightsError, are_other_weights, folder_revision

EMBEDDING_TENSOR = "slm_embedding"
_EMBEDDING_NAMES = (
    "model.embed_tokens.weight",
    # Of models that also see images, as Gemma 3 has it on the Hub and as transformers saves it.
    "language_model.model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "transformer.wte.weight",
    "gpt_neox.embed_in.weight",
)


@dataclass(frozen=True)
class RouterCheckpoint:
    """A router with its description.

    Attributes:
        router: In evaluation mode.
        description: What it was trained for, and its thresholds.
        slm_embedding: f32 [vocab, slm_hidden], or None when it is left to the SLM's own weights.
    """

    router: Router
    description: RouterDescription
    slm_embedding: Tensor | None = None


def save_checkpoint(checkpoint: RouterCheckpoint, folder: Path) -> None:
    """Writes a router.

    Args:
        checkpoint: What to write; its embedding is stored when it is given.
        folder: Made when missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().contiguous() for name, value in checkpoint.router.state_dict().items()}
    if checkpoint.slm_embedding is not None:
        tensors[EMBEDDING_TENSOR] = checkpoint.slm_embedding.contiguous()
    # Aside first: what is there stays whole if the disk fills or the process dies.
    aside = folder / f"{WEIGHTS_FILE}.tmp"
    # Not `save_file`, which lets no one else read what it writes, such as the service that is to load it.
    aside.write_bytes(save(tensors))
    aside.replace(folder / WEIGHTS_FILE)
    write_description(checkpoint.description, folder / DESCRIPTION_FILE)


def load_checkpoint(folder: Path) -> RouterCheckpoint:
    """Reads and checks a router.

    Args:
        folder: Holds `router.safetensors` and `router.json`.

    Returns:
        The router on the CPU, in evaluation mode.

    Raises:
        CheckpointError: If a file is missing or damaged, or a field or tensor is missing, unknown or misshapen.
    """
    description = read_description(folder / DESCRIPTION_FILE)
    path = folder / WEIGHTS_FILE
    tensors = _read_tensors(path)
    embedding = tensors.pop(EMBEDDING_TENSOR, None)
    if embedding is not None:
        expected = (description.slm.vocab_size, description.slm.hidden_size)
        _check_tensor(path, EMBEDDING_TENSOR, embedding, expected)
    router = Router(description.config)
    wanted = router.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise CheckpointError(f"{path}: lacks the tensor {name!r}")
        if name not in wanted:
            raise CheckpointError(f"{path}: holds the unknown tensor {name!r}")
        _check_tensor(path, name, tensors[name], tuple(wanted[name].shape))
    router.load_state_dict(tensors)
    return RouterCheckpoint(router.eval(), description, embedding)


def load_slm_embedding(model_dir: Path) -> Tensor:
    """Reads a model's input embedding and nothing else of it.

    Args:
        model_dir: A Hugging Face folder with `model.safetensors`, or shards and `model.safetensors.index.json`.

    Returns:
        f32 [vocab, hidden].

    Raises:
        CheckpointError: If no file holds an input embedding, or it is not a matrix.
    """
    index = model_dir / "model.safetensors.index.json"
    names: tuple[str, ...] = _EMBEDDING_NAMES
    path = model_dir / "model.safetensors"
    if index.exists():
        weight_map = _section(index, "weight_map")
        names = tuple(name for name in names if name in weight_map)
        if not names:
            raise CheckpointError(f"{index}: lists no input embedding; looked for {', '.join(_EMBEDDING_NAMES)}")
        path = model_dir / str(weight_map[names[0]])
    tensors = _read_tensors(path, names)
    for name in names:
        if name in tensors:
            if tensors[name].ndim != 2:
                raise CheckpointError(f"{path}: {name!r} has shape {tuple(tensors[name].shape)}, not [vocab, hidden]")
            return tensors[name].to(torch.float32)
    raise CheckpointError(f"{path}: holds no input embedding; looked for {', '.join(_EMBEDDING_NAMES)}")


def count_stored_parameters(model_dir: Path) -> int:
    """Counts a model's weights without reading them; tied ones are stored once.

    Args:
        model_dir: A Hugging Face folder with `model.safetensors`, or shards and `model.safetensors.index.json`. Of
            shards the index alone is needed.

    Raises:
        CheckpointError: If there is neither, or the index doesn't tell.
    """
    index = model_dir / "model.safetensors.index.json"
    if index.exists():
        metadata = _section(index, "metadata")
        if isinstance(number := metadata.get("total_parameters"), (int, float)):
            return int(number)
        config = read_json_object(model_dir / "config.json", CheckpointError)
        dtype = getattr(torch, str(config.get("dtype", config.get("torch_dtype"))), None)
        if not isinstance(size := metadata.get("total_size"), (int, float)) or not isinstance(dtype, torch.dtype):
            raise CheckpointError(f"{index}: its metadata and config.json don't tell the number of parameters")
        return int(size) // dtype.itemsize
    with _opened(model_dir / "model.safetensors") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def check_slm_weights(model_dir: Path, slm: ModelIdentity, owner: Path) -> None:
    """Refuses an SLM of other weights than a router, or what it is to learn from, was made with.

    Args:
        model_dir: The SLM's folder.
        slm: The SLM that is wanted.
        owner: The checkpoint or dataset that wants it, for the error.

    Raises:
        CheckpointError: They are known to be others, or the folder holds none; the message names both.
    """
    try:
        found = folder_revision(model_dir)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    if are_other_weights(found, slm.revision):
        raise CheckpointError(
            f"{model_dir}: the SLM's weights are {found}; {owner} belongs to {slm.revision} of {slm.model_id!r}; "
            "--allow-other-slm takes them all the same"
        )


def _section(path: Path, name: str) -> dict[str, Any]:
    section = read_json_object(path, CheckpointError).get(name, {})
    if not isinstance(section, dict):
        raise CheckpointError(f"{path}: {name} must be an object")
    return section


def _read_tensors(path: Path, names: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys() if names is None or name in names}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error


def _check_tensor(path: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise CheckpointError(f"{path}: {name!r} has shape {tuple(tensor.shape)}, expected {shape}")
    if tensor.dtype != torch.float32:
        raise CheckpointError(f"{path}: {name!r} is {tensor.dtype}, expected torch.float32")
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{path}: {name!r} holds values that are not finite")
