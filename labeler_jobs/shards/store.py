"""Parquet shards of the labelling stages, in a folder or under any fsspec URL.

Owns their names, and the promise that a shard is whole or absent: it is written beside its place and moved there once
it is complete. What a crash leaves beside that place is never read, and removed when the shard is written again.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

logger = logging.getLogger(__name__)

_ASIDE = ".aside"


class ShardError(ValueError):
    """A shard can't be read or written. The message names the file and, where there is one, field and row."""


@dataclass(frozen=True, slots=True)
class ShardName:
    """One shard of one stage.

    Args:
        stage: Folder of the stage.
        index: Number of the shard, from 0.
        num_shards: Shards of every stage.
    """

    stage: str
    index: int
    num_shards: int

    def __post_init__(self) -> None:
        """Refuses an index that no shard has."""
        if not 0 <= self.index < self.num_shards:
            raise ValueError(f"index: {self.index} is not below the number of shards, {self.num_shards}")

    @property
    def path(self) -> str:
        """Path of its file below the output folder."""
        return f"{self.stage}/part-{self.index:05d}-of-{self.num_shards:05d}.parquet"

    @property
    def cost_path(self) -> str:
        """Path of the file beside it that says what it cost."""
        return self.path.removesuffix(".parquet") + ".cost.json"

    def of(self, stage: str) -> ShardName:
        """The shard of another stage that holds the same queries."""
        return ShardName(stage, self.index, self.num_shards)


class ShardStore:
    """Reads and writes whole files below one folder.

    Args:
        url: Folder, or any URL that fsspec knows (`s3://bucket/labels`, `gs://…`); made when missing.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self.url = url.rstrip("/")

    def locate(self, path: str) -> str:
        """Where a file lies, for messages."""
        return f"{self.url}/{path}"

    def exists(self, path: str) -> bool:
        """Whether a file is there; then it is whole."""
        return bool(self._fs.exists(self._full(path)))

    def write(self, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Writes a shard; it appears whole or not at all.

        Args:
            path: Below the folder.
            schema: What every batch holds; its metadata goes into the file.
            batches: One row group each.

        Returns:
            Number of rows.

        Raises:
            ShardError: A batch doesn't fit the schema, or the file can't be written (a full disk, say). Nothing of
                it stays.
        """

        def fill(file: object) -> int:
            num_rows = 0
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for batch in batches:
                    _check_batch(self.locate(path), schema, batch, num_rows)
                    writer.write_batch(batch.cast(schema))
                    num_rows += batch.num_rows
            return num_rows

        return self._write_aside(path, fill)

    def write_text(self, path: str, text: str) -> None:
        """Writes a small UTF-8 file; it appears whole or not at all.

        Raises:
            ShardError: It can't be written.
        """
        self._write_aside(path, lambda file: file.write(text.encode()))

    def delete(self, *paths: str) -> None:
        """Takes files away, where they are there.

        Raises:
            ShardError: One can't be taken away.
        """
        for path in paths:
            try:
                self._fs.rm_file(self._full(path))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ShardError(f"{self.locate(path)}: can't be removed: {error}") from error

    def read_text(self, path: str) -> str:
        """Reads a small UTF-8 file.

        Raises:
            ShardError: It is missing or not text.
        """
        try:
            return bytes(self._fs.cat_file(self._full(path))).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ShardError(f"{self.locate(path)}: can't be read: {error}") from error

    def read(self, path: str, schema: pa.Schema) -> pa.Table:
        """Reads a whole shard; see `batches`."""
        return pa.Table.from_batches(list(self.batches(path, schema)), schema)

    def batches(self, path: str, schema: pa.Schema, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Reads a shard, one row group at a time.

        Args:
            path: Below the folder.
            schema: Fields that the shard must have.
            columns: Those of them to read; None reads all.

        Yields:
            Batches whose fields are the schema's, in its order.

        Raises:
            ShardError: The file is missing, cut off or damaged, or a field is missing, of another type or null.
        """
        where = self.locate(path)
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        num_rows = 0
        try:
            with self._fs.open(self._full(path), "rb") as raw, pq.ParquetFile(raw) as file:
                _check_schema(where, wanted, file.schema_arrow)
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=wanted.names).select(wanted.names)
                    for batch in table.replace_schema_metadata(None).combine_chunks().to_batches():
                        _check_batch(where, wanted, batch, num_rows)
                        num_rows += batch.num_rows
                        yield batch.cast(wanted.remove_metadata())
        except FileNotFoundError as error:
            raise ShardError(f"{where}: no such shard") from error
        except (OSError, pa.ArrowException) as error:
            raise ShardError(f"{where}: cut off or damaged: {error}; delete it and run its stage again") from error

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    def _write_aside(self, path: str, fill: object) -> int:
        target = self._full(path)
        aside = f"{target}.{uuid.uuid4().hex}{_ASIDE}"
        try:
            self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._remove(*self._fs.glob(f"{target}.*{_ASIDE}"))
            with self._fs.open(aside, "wb") as file:
                result: int = fill(file)  # type: ignore[operator]
                self._reach_disk(file)
            self._fs.mv(aside, target)
        except (OSError, pa.ArrowException) as error:
            raise ShardError(f"{self.locate(path)}: can't be written: {error}; nothing of it was kept") from error
        finally:
            self._remove(aside)
        return result

    def _reach_disk(self, file: object) -> None:
        # Otherwise a power cut after the move could leave a whole name on an empty file.
        if isinstance(self._fs, LocalFileSystem):
            file.flush()  # type: ignore[attr-defined]
            os.fsync(file.fileno())  # type: ignore[attr-defined]

    def _remove(self, *paths: str) -> None:
        for path in paths:
            try:
                self._fs.rm_file(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("%s: can't be removed: %s", path, error)


def _check_schema(where: str, wanted: pa.Schema, found: pa.Schema) -> None:
    for field in wanted:
        if field.name not in found.names:
            raise ShardError(f"{where}: the field {field.name!r} is missing")
        if (kind := found.field(field.name).type) != field.type:
            raise ShardError(f"{where}: the field {field.name!r} is {kind}, not {field.type}")


def _check_batch(where: str, wanted: pa.Schema, batch: pa.RecordBatch, first_row: int) -> None:
    _check_schema(where, wanted, batch.schema)
    for field in wanted:
        column = batch.column(field.name)
        if not field.nullable and column.null_count:
            row = first_row + column.is_null().index(True).as_py()
            raise ShardError(f"{where}: the field {field.name!r} is null in row {row}")
