"""Queries that labels are made from, and loading them by the name of their source.

Owns what a loaded set has to be: distinct queries, no domain empty, no id twice. `labeler_jobs.queries.sources` knows
the sources' fields, `labeler_jobs.queries.rows` the files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from labeler_jobs.queries.rows import QueryError
from labeler_jobs.queries.sources import SOURCES, read_source


@dataclass(frozen=True)
class Query:
    """One question.

    Attributes:
        query_id: Unique in its set, and the same whenever the set is loaded.
        domain: What it is about, such as "math", "code" or "qa".
        query: The user's message, in the format that its source asks for.
        answer: What a correct response ends with; None where the source has none that is short.
    """

    query_id: str
    domain: str
    query: str
    answer: str | None


@dataclass(frozen=True)
class QuerySet:
    """Loaded queries; iterating gives them in the order of their source.

    Attributes:
        queries: All of them.
        num_duplicates: Rows that were left out because an earlier one asks the same.
    """

    queries: tuple[Query, ...]
    num_duplicates: int

    def __iter__(self) -> Iterator[Query]:
        return iter(self.queries)

    def __len__(self) -> int:
        return len(self.queries)


class QueryReader(Protocol):
    """Reads one source's queries; how a package adds a source that this one doesn't know."""

    def __call__(self, path: str, split: str) -> Iterable[Query]:
        """Reads queries.

        Args:
            path: File, folder or dataset; empty for the source's own default.
            split: Which split of it; empty for the source's own default.

        Returns:
            Queries in a fixed order. It may be lazy: only as many are taken as are asked for.

        Raises:
            QueryError: If there is nothing to read, or a row is wrong.
        """
        ...


def load_queries(
    source: str,
    path: str = "",
    split: str = "",
    limit: int | None = None,
    *,
    domains: Collection[str] = (),
    readers: Mapping[str, QueryReader] | None = None,
) -> QuerySet:
    """Loads a source's queries.

    Args:
        source: A name in `query_sources.SOURCES` or in `readers`.
        path: A local file (JSON, JSONL, Parquet), a folder of them, or the id of a Hugging Face dataset, with a
            revision as in "org/name@revision". Empty takes the dataset that the source is known for.
        split: Split of a dataset or folder; empty takes the source's own.
        limit: Most queries, counted after duplicates and other domains are left out; None takes all.
        domains: Which domains to keep; empty keeps all.
        readers: Sources besides those known here, by name.

    Returns:
        The queries, in the order of the source.

    Raises:
        QueryError: If the source is unknown, can't be read or holds nothing, if a row doesn't fit its schema, if two
            queries share an id, or if one of `domains` has no query. The message names file, field and row.
    """
    if limit is not None and limit < 1:
        raise QueryError(f"limit: {limit} is less than 1")
    kept = _Distinct(domains)
    queries = tuple(islice(kept.filter(_read(source, path, split, readers or {})), limit))
    if not queries and not domains:
        raise QueryError(f"{source}: no query in {path or 'its dataset'}")
    missing = sorted(set(domains) - kept.found_domains)
    if missing and (limit is None or len(queries) < limit):
        raise QueryError(f"{source}: no query of the domain {missing[0]!r} in {path or 'its dataset'}")
    return QuerySet(queries, kept.num_duplicates)


def _read(source: str, path: str, split: str, readers: Mapping[str, QueryReader]) -> Iterable[Query]:
    if source in readers:
        return readers[source](path, split)
    if source not in SOURCES:
        known = ", ".join(sorted({*SOURCES, *readers}))
        raise QueryError(f"source: {source!r} is unknown; known sources: {known}")
    rows = read_source(SOURCES[source], path, split)
    return (Query(f"{source}-{row.row_id}", row.domain, row.query, row.answer) for row in rows)


class _Distinct:
    """Passes queries on that were not asked before, and counts the others."""

    def __init__(self, domains: Collection[str]) -> None:
        self._domains = frozenset(domains)
        self._ids: set[str] = set()
        self._texts: set[str] = set()
        self.found_domains: set[str] = set()
        self.num_duplicates = 0

    def filter(self, queries: Iterable[Query]) -> Iterator[Query]:
        for query in queries:
            if self._domains and query.domain not in self._domains:
                continue
            text = " ".join(query.query.split())
            if text in self._texts:
                self.num_duplicates += 1
                continue
            if query.query_id in self._ids:
                raise QueryError(f"query_id: {query.query_id!r} stands for two different queries")
            self._ids.add(query.query_id)
            self._texts.add(text)
            self.found_domains.add(query.domain)
            yield query
