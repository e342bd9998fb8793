from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from trivium.v1 import common_pb2

from services.common.errors import InvalidRequest
from services.common.tensors import pack, unpack

F32, F16 = common_pb2.DATA_TYPE_FLOAT32, common_pb2.DATA_TYPE_FLOAT16


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_unpack_packed_array_is_the_same(dtype: type[np.floating[Any]]) -> None:
    array = np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
    result = unpack(pack(array), field="x", shape=(None, 5), dtype=dtype)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, array)


def test_pack_big_endian_and_strided_array_is_little_endian_row_major() -> None:
    tensor = pack(np.array([[1.0, 9.0], [2.0, 9.0]], dtype=np.float32)[:, 0])
    assert tensor.data == b"\x00\x00\x80\x3f\x00\x00\x00\x40"
    assert list(tensor.shape) == [2]


def test_pack_unsupported_type_raises() -> None:
    with pytest.raises(KeyError):
        pack(np.zeros(2, dtype=np.int64))


def test_unpack_is_a_view_of_the_message() -> None:
    assert not unpack(pack(np.ones(4, np.float32)), field="x", shape=(4,)).flags.owndata


@pytest.mark.parametrize("num_dimensions", [9, 20_000, 4_000_000])
def test_unpack_any_number_of_dimensions_is_refused_in_few_words(num_dimensions: int) -> None:
    tensor = common_pb2.Tensor(dtype=F32, shape=[1] * num_dimensions, data=bytes(4))
    with pytest.raises(InvalidRequest) as error:
        unpack(tensor, field="x", shape=(None, 3))
    assert str(error.value) == f"x.shape: expected [any, 3], got {num_dimensions} dimensions"


def _nan() -> NDArray[np.float32]:
    array = np.zeros((2, 3), np.float32)
    array[1, 2] = np.nan
    return array


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (
            common_pb2.Tensor(dtype=F16, shape=[2, 3], data=bytes(12)),
            ["x.dtype", "DATA_TYPE_FLOAT32", "DATA_TYPE_FLOAT16"],
        ),
        (common_pb2.Tensor(shape=[2, 3], data=bytes(24)), ["x.dtype", "DATA_TYPE_UNSPECIFIED"]),
        (common_pb2.Tensor(dtype=F32, shape=[2, 4], data=bytes(32)), ["x.shape", "[2, 3]", "[2, 4]"]),
        (common_pb2.Tensor(dtype=F32, shape=[6], data=bytes(24)), ["x.shape", "[2, 3]", "[6]"]),
        (common_pb2.Tensor(dtype=F32, shape=[2, 3], data=bytes(23)), ["x.data", "24 bytes", "got 23"]),
        (common_pb2.Tensor(dtype=F32, shape=[2, 3]), ["x.data", "24 bytes", "got 0"]),
        (common_pb2.Tensor(), ["x.dtype"]),
        (pack(_nan()), ["x.data", "finite"]),
        (pack(np.full((2, 3), np.inf, np.float32)), ["x.data", "finite"]),
    ],
)
def test_unpack_wrong_tensor_raises_naming_field_expected_and_got(
    tensor: common_pb2.Tensor, words: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as error:
        unpack(tensor, field="x", shape=(2, 3))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unpack_unknown_dtype_number_is_refused() -> None:
    tensor = common_pb2.Tensor.FromString(b"\x08\x2a")
    with pytest.raises(InvalidRequest, match=r"x\.dtype: expected DATA_TYPE_FLOAT32, got 42"):
        unpack(tensor, field="x", shape=(2, 3))
