"""Files as spreadsheets and editors leave them, and what is wrong in them, by its place."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeler_jobs.queries.rows import QueryError, read_rows

BOM = b"\xef\xbb\xbf"


def fields(path: Path, *names: str) -> list[tuple[object, ...]]:
    return [tuple(row.value(name) for name in names) for row in read_rows(str(path), "", "train")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.jsonl", b'{"query": "a"}\n{"query": "b"}\n'),
        ("q.json", b'[{"query": "a"}, {"query": "b"}]'),
        ("q.csv", b"query\na\nb\n"),
        ("q.csv", b'"query"\r\n"a"\r\n"b"\r\n'),
    ],
)
def test_read_rows_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(BOM + content)
    assert fields(tmp_path / name, "query") == [("a",), ("b",)]


def test_read_rows_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    # The index column of pandas has no name; a cell may span lines; a line may be empty.
    file.write_bytes(b',query,answer\r\n0,"Who said ""no"",\r\nand why?",\r\n\r\n1,b,7\r\n')
    assert fields(file, "query", "answer", "") == [('Who said "no",\r\nand why?', None, None), ("b", "7", None)]


_CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(_CELL, _CELL), min_size=1, max_size=8))
def test_read_rows_csv_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    file = tmp_path_factory.mktemp("csv") / "q.csv"
    with file.open("w", encoding="utf-8-sig", newline="") as lines:
        csv.writer(lines).writerows([("a", "b"), *rows])
    assert fields(file, "a", "b") == [(a or None, b or None) for a, b in rows]


def test_read_rows_csv_cell_of_a_megabyte_is_read(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text("query\n" + "x" * 1_000_000 + "\n", encoding="utf-8")
    assert len(str(fields(file, "query")[0][0])) == 1_000_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", b"a,b\n1,2\n3\n", r"q\.csv, row 2 \(line 3\): 1 cells under 2 columns"),
        ("q.csv", b'a,b\n"1\n1",2\n3,4,5\n', r"q\.csv, row 2 \(line 4\): 3 cells under 2 columns"),
        ("q.csv", b"a,a\n1,2\n", r"q\.csv: the column 'a' is there twice"),
        ("q.csv", b"a;b\n1;2\n", r"q\.csv: columns are parted by ';', not by commas"),
        ("q.csv", b"a\tb\n1\t2\n", r"q\.csv: columns are parted by '\\t', not by commas"),
        ("q.csv", b'a,b\n1,"2\n', r"q\.csv, line 2: not CSV"),
        ("q.csv", b'a,b\n1,"2"2\n', r"q\.csv, line 2: not CSV"),
        ("q.csv", b"a,b\n", r"q\.csv: has no rows"),
        ("q.csv", b"", r"q\.csv: has no rows"),
        ("q.csv", "a\nü\n".encode("utf-16"), r"q\.csv: isn't UTF-8 text"),
        ("q.csv", "a\nü\n".encode("latin-1"), r"q\.csv: isn't UTF-8 text"),
        ("q.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", r"q\.jsonl, row 1: not JSON"),
        ("q.jsonl", b"[" * 100_000 + b"\n", r"q\.jsonl, row 1: not JSON"),
        ("q.json", b"[" * 100_000, r"q\.json: not JSON"),
    ],
)
def test_read_rows_damaged_file_names_place_and_fault(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(QueryError, match=message):
        fields(tmp_path / name, "a")


def test_row_half_a_character_is_refused_before_anyone_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"query": "a \ud83d"}) + "\n", encoding="utf-8")
    [row] = read_rows(str(file), "", "train")
    with pytest.raises(QueryError, match=r"row 1: field 'query' holds half a character"):
        row.text("query")
    with pytest.raises(QueryError, match=r"row 1: field 'query' holds half a character"):
        row.answer("query")
