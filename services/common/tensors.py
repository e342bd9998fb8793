"""Turns numpy arrays into `trivium.v1.Tensor` and back.

Owns the check of what came over the wire: nothing unpacked here has a wrong length, type or shape, or holds a value
that isn't finite.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trivium.v1 import common_pb2

from services.common.errors import InvalidRequest

_WIRE_TYPES: dict[np.dtype[Any], tuple[common_pb2.DataType.ValueType, np.dtype[Any]]] = {
    np.dtype(np.float32): (common_pb2.DATA_TYPE_FLOAT32, np.dtype("<f4")),
    np.dtype(np.float16): (common_pb2.DATA_TYPE_FLOAT16, np.dtype("<f2")),
}

# A message has room for millions.
_MAX_DIMENSIONS = 8


def pack(array: NDArray[Any]) -> common_pb2.Tensor:
    """Packs a float32 or float16 array of any shape.

    Raises:
        KeyError: The array has another type.
    """
    dtype, little_endian = _WIRE_TYPES[array.dtype]
    data = array.astype(little_endian, copy=False).tobytes()
    return common_pb2.Tensor(dtype=dtype, shape=array.shape, data=data)


def unpack(
    tensor: common_pb2.Tensor,
    *,
    field: str,
    shape: tuple[int | None, ...],
    dtype: type[np.floating[Any]] = np.float32,
) -> NDArray[Any]:
    """Unpacks and checks a tensor, without a copy.

    Args:
        tensor: As received.
        field: Name of the message field, for errors.
        shape: Expected length of each dimension; None takes any.
        dtype: Expected element type: float32 or float16.

    Returns:
        A read-only array of that type over the message's bytes.

    Raises:
        InvalidRequest: Type, shape or length isn't as expected, or a value isn't finite.
    """
    wire_type, little_endian = _WIRE_TYPES[np.dtype(dtype)]
    if tensor.dtype != wire_type:
        expected, got = common_pb2.DataType.Name(wire_type), _dtype_name(tensor.dtype)
        raise InvalidRequest(f"{field}.dtype: expected {expected}, got {got}")
    if len(tensor.shape) > _MAX_DIMENSIONS:
        raise InvalidRequest(f"{field}.shape: expected {_shape_text(shape)}, got {len(tensor.shape)} dimensions")
    actual = tuple(tensor.shape)
    if len(actual) != len(shape) or any(want not in (None, have) for want, have in zip(shape, actual, strict=True)):
        raise InvalidRequest(f"{field}.shape: expected {_shape_text(shape)}, got {_shape_text(actual)}")
    num_bytes = math.prod(actual) * little_endian.itemsize
    if len(tensor.data) != num_bytes:
        raise InvalidRequest(
            f"{field}.data: expected {num_bytes} bytes for shape {_shape_text(actual)}, got {len(tensor.data)}"
        )
    array: NDArray[Any] = np.frombuffer(tensor.data, dtype=little_endian).reshape(actual)
    if not np.isfinite(array).all():
        raise InvalidRequest(f"{field}.data: every value must be finite, got NaN or infinity")
    return array


def _dtype_name(value: common_pb2.DataType.ValueType) -> str:
    # A newer peer may send a number that this version has no name for.
    return common_pb2.DataType.Name(value) if value in common_pb2.DataType.values() else str(value)


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"
