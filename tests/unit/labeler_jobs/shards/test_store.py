import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem

from labeler_jobs.shards.store import ShardError, ShardName, ShardStore

SCHEMA = pa.schema([pa.field("name", pa.string(), nullable=False), pa.field("count", pa.int32(), nullable=False)])
PATH = ShardName("things", 1, 3).path


def batch(*names: str | None) -> pa.RecordBatch:
    schema = pa.schema([field.with_nullable(True) for field in SCHEMA])
    return pa.RecordBatch.from_pydict({"name": list(names), "count": [1] * len(names)}, schema=schema)


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore(str(tmp_path))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_shard_name_tells_its_place_among_all() -> None:
    assert PATH == "things/part-00001-of-00003.parquet"
    with pytest.raises(ValueError, match="index: 3 is not below"):
        ShardName("things", 3, 3)


@pytest.mark.parametrize("scheme", ["", "memory://shards-test"])
def test_written_shard_reads_back_batch_by_batch(tmp_path: Path, scheme: str) -> None:
    store = ShardStore(scheme or str(tmp_path))
    assert not store.exists(PATH)
    assert store.write(PATH, SCHEMA, [batch("a", "b"), batch("c")]) == 3
    assert store.exists(PATH)
    assert [len(found) for found in store.batches(PATH, SCHEMA)] == [2, 1]
    assert store.read(PATH, SCHEMA)["name"].to_pylist() == ["a", "b", "c"]
    assert next(store.batches(PATH, SCHEMA, ["count"])).schema.names == ["count"]


def test_equal_shards_are_equal_bytes(tmp_path: Path, store: ShardStore) -> None:
    contents = []
    for _ in range(2):
        store.write(PATH, SCHEMA, [batch("a", "b")])
        contents.append((tmp_path / PATH).read_bytes())
    assert contents[0] == contents[1]


def test_batches_that_fail_on_the_way_leave_no_shard(tmp_path: Path, store: ShardStore) -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield batch("a")
        raise RuntimeError("the model is gone")

    with pytest.raises(RuntimeError, match="the model is gone"):
        store.write(PATH, SCHEMA, failing())
    assert files(tmp_path) == []


def test_leftover_of_a_killed_writer_is_not_read_and_goes_with_the_next_write(
    tmp_path: Path, store: ShardStore
) -> None:
    leftover = tmp_path / f"{PATH}.0123.aside"
    leftover.parent.mkdir()
    leftover.write_bytes(b"PAR1 half of it")
    assert not store.exists(PATH)
    store.write(PATH, SCHEMA, [batch("a")])
    assert files(tmp_path) == [Path(PATH).name]


class FullDisk(LocalFileSystem):  # type: ignore[misc]
    """A file system whose disk takes a few bytes."""

    protocol = "fulldisk"

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return FullFile(path, mode, fs=self, **kwargs) if "w" in mode else super()._open(path, mode, **kwargs)


class FullFile(LocalFileOpener):  # type: ignore[misc]
    def write(self, data: bytes) -> int:
        if self.f.tell() + len(data) > 64:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.f.write(data))


def test_disk_that_fills_is_named_and_nothing_half_written_stays(tmp_path: Path) -> None:
    fsspec.register_implementation("fulldisk", FullDisk, clobber=True)
    with pytest.raises(ShardError, match=rf"{PATH}: can't be written: .*No space left.*nothing of it was kept"):
        ShardStore(f"fulldisk://{tmp_path}").write(PATH, SCHEMA, [batch("a", "b")])
    assert files(tmp_path) == []


@pytest.mark.parametrize("num_kept", [0, 3, 100, -1])
def test_shard_cut_off_in_the_middle_is_named(tmp_path: Path, store: ShardStore, num_kept: int) -> None:
    store.write(PATH, SCHEMA, [batch(*"abcdefgh" * 50)])
    whole = (tmp_path / PATH).read_bytes()
    (tmp_path / PATH).write_bytes(whole[:num_kept])
    with pytest.raises(ShardError, match=rf"{PATH}: cut off or damaged: .*run its stage again"):
        store.read(PATH, SCHEMA)


def test_missing_shard_is_named(store: ShardStore) -> None:
    with pytest.raises(ShardError, match=rf"{PATH}: no such shard"):
        store.read(PATH, SCHEMA)


def test_missing_field_and_wrong_type_are_named(store: ShardStore) -> None:
    store.write(PATH, SCHEMA, [batch("a")])
    more = SCHEMA.append(pa.field("size", pa.int64()))
    with pytest.raises(ShardError, match=rf"{PATH}: the field 'size' is missing"):
        store.read(PATH, more)
    other = SCHEMA.set(1, pa.field("count", pa.string()))
    with pytest.raises(ShardError, match=rf"{PATH}: the field 'count' is int32, not string"):
        store.read(PATH, other)


def test_null_is_named_with_its_row_in_the_shard(store: ShardStore) -> None:
    loose = pa.schema([field.with_nullable(True) for field in SCHEMA])
    store.write(PATH, loose, [batch("a", "b"), batch("c", None)])
    with pytest.raises(ShardError, match=rf"{PATH}: the field 'name' is null in row 3"):
        store.read(PATH, SCHEMA)
    with pytest.raises(ShardError, match="the field 'name' is null in row 3"):
        store.write("other.parquet", SCHEMA, [batch("a", "b"), batch("c", None)])
