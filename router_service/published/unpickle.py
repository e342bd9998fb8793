"""Reads a file of `torch.save` and writes what it holds without pickle: the child side of `published.reading`.

A script of its own, started as `python -I unpickle.py SOURCE_FD TARGET_FD LIMITS`, so that whatever a file makes of
its reader happens in a process that has nothing: no environment, no network but an empty one where the kernel gives
one, no descriptor beyond those it was started with and none to be had, hence no file and no socket, and limits of
memory, time and output. Inside, torch's restricted unpickler builds tensors and plain values alone.

TARGET becomes a safetensors file with all tensors of `state_dict`, and everything else as JSON in its metadata.
Standard output becomes `{"refused": reason}` or `{}`.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import pickle
import re
import resource
import sys
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_MAX_ENTRIES = 4096
_MAX_PICKLE_BYTES = 2**20
_MAX_DEPTH = 4
_MAX_ITEMS = 1024
_MAX_TEXT = 1024
_PAGE_BYTES = resource.getpagesize()
_STORED_TYPES = {"torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


class Refused(Exception):
    """The file isn't read. The message says why, without naming the file."""


def leave_network() -> None:
    """Enters a network namespace without any network, as nobody, where the kernel lets this user make one."""
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    if unshare(_NEW_USER | _NEW_NET) != 0:
        unshare(_NEW_NET)


def confine(limits: dict[str, int]) -> None:
    """Takes everything from this process that reading doesn't need."""
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE_BYTES
    for number, value in (
        (resource.RLIMIT_AS, held + limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_FSIZE, limits["output_bytes"]),
        (resource.RLIMIT_CORE, 0),
        # No new descriptor: no file, no socket.
        (resource.RLIMIT_NOFILE, 0),
    ):
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def check_archive(file: IO[bytes], size: int) -> None:
    """Refuses what isn't an uncompressed archive with one small pickle, before anything is unpacked."""
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise Refused(f"isn't a whole file of torch.save: {error}") from error
    if len(entries) > _MAX_ENTRIES:
        raise Refused(f"holds {len(entries)} parts; a router has fewer than {_MAX_ENTRIES}")
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise Refused("is a TorchScript program, not a router's weights")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Refused(f"part {entry.filename[:80]!r} is compressed or encrypted, which torch.save doesn't do")
    if (total := sum(entry.file_size for entry in entries)) > size:
        raise Refused(f"its parts claim {total} bytes, the file has {size}")
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused(f"isn't a file of torch.save: it has {len(pickles)} parts data.pkl, not one")
    if pickles[0].file_size > _MAX_PICKLE_BYTES:
        raise Refused(f"data.pkl has {pickles[0].file_size} bytes; a router's has fewer than {_MAX_PICKLE_BYTES}")
    file.seek(0)


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """Values that JSON knows, checked; torch's dtypes by their names."""
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if type(value).__name__ == "dtype":
        return str(value)
    if isinstance(value, str) and len(value) <= _MAX_TEXT:
        return value
    if isinstance(value, (list, tuple, dict)) and len(value) <= _MAX_ITEMS:
        if depth == _MAX_DEPTH:
            raise Refused(f"{where}: is nested deeper than anything of a router")
        if not isinstance(value, dict):
            return [plain(item, f"{where}[{at}]", depth + 1) for at, item in enumerate(value)]
        if all(isinstance(key, str) and len(key) <= _MAX_TEXT for key in value):
            return {key: plain(item, f"{where}.{key}".lstrip("."), depth + 1) for key, item in value.items()}
    raise Refused(f"{where}: holds a {type(value).__name__} that no router has there")


def check_tensor(name: Any, tensor: Any) -> int:
    """Refuses a tensor that isn't simply its stored values; returns its bytes."""
    import torch

    if not isinstance(name, str) or len(name) > _MAX_TEXT:
        raise Refused("state_dict: holds a key that is no tensor's name")
    if not isinstance(tensor, torch.Tensor):
        raise Refused(f"state_dict.{name}: is a {type(tensor).__name__}, not a tensor")
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or str(tensor.dtype) not in _STORED_TYPES:
        raise Refused(f"state_dict.{name}: is a {tensor.dtype} {tensor.layout} on {tensor.device}, not dense floats")
    num_bytes = tensor.numel() * tensor.element_size()
    if num_bytes > tensor.untyped_storage().nbytes():
        raise Refused(f"state_dict.{name}: has shape {tuple(tensor.shape)}, and fewer values are stored")
    return int(num_bytes)


def read(file: IO[bytes], size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of `state_dict` by name, and everything else."""
    import torch

    check_archive(file, size)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL ([^\s,]+)", str(error)):
            raise Refused(f"names {found[1]!r}, which a router's weights have no use for; nothing was run") from error
        raise Refused(f"can't be read as weights alone: {str(error).rpartition('error: ')[2]}") from error
    if not isinstance(content, dict):
        raise Refused(f"holds a {type(content).__name__}, not the dict of a published router")
    if not isinstance(tensors := content.pop("state_dict", None), dict):
        raise Refused("state_dict: is missing")
    if len(tensors) > _MAX_ITEMS:
        raise Refused(f"state_dict: holds {len(tensors)} tensors; a router has fewer than {_MAX_ITEMS}")
    if (total := sum(check_tensor(name, tensor) for name, tensor in tensors.items())) > size:
        raise Refused(f"state_dict: its tensors come to {total} bytes, the file has {size}")
    fields: dict[str, Any] = plain(content, "")
    return tensors, fields


def write(tensors: dict[str, Any], fields: dict[str, Any], target: IO[bytes]) -> None:
    """Writes a safetensors file, one tensor after another: two of them at once may be more than there is room for."""
    import torch

    header: dict[str, Any] = {"__metadata__": {"fields": json.dumps(fields)}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        dtype = _STORED_TYPES[str(tensor.dtype)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    target.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        target.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    target.flush()


def answer(content: dict[str, Any]) -> None:
    """Tells the parent how it went."""
    sys.stdout.write(json.dumps(content))
    sys.stdout.flush()


def tell_error(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """Stands in for a traceback: a damaged file makes torch raise whatever it likes."""
    told = str(error)
    answer({"refused": told if kind is Refused else f"can't be read: {kind.__name__}: {told.partition(chr(10))[0]}"})


def main() -> None:
    """Converts SOURCE to TARGET."""
    source_fd, target_fd, limits = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    sys.excepthook = tell_error
    import torch

    # What these import on first use can't be opened any more once the process is confined.
    warm_up = io.BytesIO()
    torch.save({"state_dict": {"": torch.zeros(1)}}, warm_up)
    warm_up.seek(0)
    write(*read(warm_up, len(warm_up.getvalue())), io.BytesIO())
    # The names in archives that others wrote.
    b"name".decode("cp437")
    with open(source_fd, "rb") as source, open(target_fd, "wb") as target:
        size = os.fstat(source_fd).st_size
        leave_network()
        confine(limits)
        write(*read(source, size), target)
    answer({})


if __name__ == "__main__":
    main()
