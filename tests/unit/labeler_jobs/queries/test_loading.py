import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler_jobs.queries.loading import Query, load_queries
from labeler_jobs.queries.rows import QueryError, read_rows

AIME = {"id": 60, "problem": "Find n.", "solution": "It is 204.", "answer": "204", "url": "https://example.org/1"}
AIME_1983 = {"ID": "1983-1", "Year": 1983, "Problem Number": 1, "Question": "Find w.", "Answer": 60, "Part": None}
LIMO = {"question": "Find k.", "solution": "It is 3.", "answer": "3"}
CODE_PROMPT = "Generate an executable Python function generated from the given prompt. Add two numbers."
MATH_PROMPT = "Return your final response within \\boxed{}. What is 2 + 2?"


def conversation(prompt: str, asking: str = "user", answering: str = "assistant") -> dict[str, Any]:
    turns = [{"from": asking, "value": prompt}, {"from": answering, "value": "<think>\n\n</think>"}]
    return {"system": "Be thorough.", "conversations": turns}


def plain(query: str, domain: str = "math", **more: Any) -> dict[str, Any]:
    return {"query": query, "domain": domain, **more}


def write_lines(file: Path, rows: Iterable[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_as(file: Path, rows: list[dict[str, Any]]) -> Path:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
        return file
    if file.suffix == ".jsonl":
        return write_lines(file, rows)
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    ("source", "row", "expected"),
    [
        ("aime", AIME, ("aime-60", "math", "204")),
        ("aime", AIME_1983, ("aime-1983-1", "math", "60")),
        ("limo", LIMO, ("limo-1", "math", "3")),
        ("bespoke-stratos", conversation(CODE_PROMPT), ("bespoke-stratos-1", "code", None)),
        ("bespoke-stratos", conversation(MATH_PROMPT), ("bespoke-stratos-1", "math", None)),
        ("openthoughts", conversation("Why is it blue?", "human", "gpt"), ("openthoughts-1", "qa", None)),
        ("openthoughts", conversation("Why?", "human", "gpt") | {"domain": "law"}, ("openthoughts-1", "law", None)),
        ("openthoughts-metadata", {"problem": "Sum.", "domain": "code"}, ("openthoughts-metadata-1", "code", None)),
        ("file", plain("Sum.", "code", query_id="s", answer="7"), ("file-s", "code", "7")),
    ],
)
def test_load_queries_true_schema_is_read_from_every_format(
    tmp_path: Path, name: str, source: str, row: dict[str, Any], expected: tuple[str, str, str | None]
) -> None:
    [query] = load_queries(source, str(write_as(tmp_path / name, [row])))
    assert (query.query_id, query.domain, query.answer) == expected


def test_load_queries_bare_question_is_put_into_the_sources_template(tmp_path: Path) -> None:
    [query] = load_queries("aime", str(write_lines(tmp_path / "a.jsonl", [AIME])))
    assert query.query.startswith("Find n.")
    assert "\\boxed{}" in query.query


def test_load_queries_prompt_that_is_formatted_stays_as_it_is(tmp_path: Path) -> None:
    [query] = load_queries("bespoke-stratos", str(write_lines(tmp_path / "b.jsonl", [conversation(CODE_PROMPT)])))
    assert query.query == CODE_PROMPT


def test_load_queries_same_question_twice_is_dropped_and_counted(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "q.jsonl", [plain("What is 1?"), plain("What  is\n1?"), plain("What is 2?")])
    loaded = load_queries("file", str(file))
    assert [query.query for query in loaded] == ["What is 1?", "What is 2?"]
    assert loaded.num_duplicates == 1


def test_load_queries_limit_counts_what_is_kept(tmp_path: Path) -> None:
    rows = [plain("a", "qa"), plain("b"), plain("b"), plain("c"), plain("d")]
    loaded = load_queries("file", str(write_lines(tmp_path / "q.jsonl", rows)), limit=2, domains=["math"])
    assert [query.query for query in loaded] == ["b", "c"]


def test_load_queries_limit_reads_no_row_behind_it(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "q.jsonl", [plain("a"), plain("b"), {"broken": True}])
    assert len(load_queries("file", str(file), limit=2)) == 2


def test_load_queries_added_reader_is_asked_with_path_and_split() -> None:
    def read(path: str, split: str) -> Iterator[Query]:
        yield Query("1", "math", f"{path} {split}", None)

    [query] = load_queries("mine", "here", "held_out", readers={"mine": read})
    assert query.query == "here held_out"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"domain": "math"}], r"row 1: field 'query' is missing"),
        ([plain("a"), plain("b"), plain(" ")], r"row 3: field 'query' is empty"),
        ([plain("a", "")], r"row 1: field 'domain' is empty"),
        ([plain("a"), plain("b", None)], r"row 2: field 'domain' expected text, found null"),  # type: ignore[arg-type]
        ([{"query": ["a"], "domain": "math"}], r"row 1: field 'query' expected text, found list"),
        ([plain("a", answer=1.5)], r"row 1: field 'answer' expected text or a whole number, found float"),
        ([plain("a", answer=True)], r"row 1: field 'answer' expected text or a whole number, found bool"),
        ([plain("a"), "text"], r"row 2: expected an object with fields, found str"),
        ([], r"q\.jsonl: has no rows"),
    ],
)
def test_load_queries_wrong_row_is_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    file = write_lines(tmp_path / "q.jsonl", rows)
    with pytest.raises(QueryError, match=message) as error:
        load_queries("file", str(file))
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("source", "row", "message"),
    [
        ("aime", AIME | {"answer": None}, "field 'answer' expected text or a whole number, found null"),
        ("aime", {"id": 1, "answer": 2}, "field 'problem or Problem or question or Question' is missing"),
        ("limo", {"question": "Find k."}, "field 'answer' is missing"),
        ("bespoke-stratos", {"system": "", "conversations": []}, "field 'conversations' expected a list of messages"),
        ("bespoke-stratos", conversation("a", asking="assistant"), "message 1: field 'from' expected user or human"),
        ("bespoke-stratos", conversation(""), "message 1: field 'value' is empty"),
        ("openthoughts", {"system": ""}, "field 'conversations' is missing"),
    ],
)
def test_load_queries_row_of_another_schema_is_named(
    tmp_path: Path, source: str, row: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(QueryError, match=rf"q\.jsonl, row 1.*{message}"):
        load_queries(source, str(write_lines(tmp_path / "q.jsonl", [row])))


def test_load_queries_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps(plain("a")) + '\n{"query": "b", "dom', encoding="utf-8")
    with pytest.raises(QueryError, match=r"q\.jsonl, row 2: not JSON"):
        load_queries("file", str(file))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.json", b"{", "not JSON"),
        ("q.json", b'{"query": "a"}', "expected a list of objects, found dict"),
        ("q.jsonl", b"\xff\xfe", "isn't UTF-8 text"),
        ("q.txt", b"query,domain", "expected one of .jsonl, .json, .csv, .parquet"),
    ],
)
def test_load_queries_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(QueryError, match=rf"{name}.*{message}"):
        load_queries("file", str(tmp_path / name))


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_load_queries_parquet_file_cut_off_is_named(tmp_path: Path, kept: float) -> None:
    file = write_as(tmp_path / "q.parquet", [plain(str(row)) for row in range(50)])
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(QueryError, match=r"q\.parquet: not a readable Parquet file"):
        load_queries("file", str(file))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "unknown"}, "'unknown' is unknown; known sources: .*aime"),
        ({"source": "file"}, "path: .* name a file"),
        ({"source": "aime", "path": "/nowhere/a.jsonl"}, "/nowhere/a.jsonl: no such file"),
        ({"source": "aime", "path": "nowhere.parquet"}, "nowhere.parquet: no such file"),
        ({"source": "aime", "limit": 0}, "limit: 0"),
    ],
)
def test_load_queries_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        load_queries(**arguments)


def test_load_queries_domain_without_a_query_is_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "q.jsonl", [plain("a")])
    with pytest.raises(QueryError, match="no query of the domain 'code'"):
        load_queries("file", str(file), domains=["math", "code"])


def test_load_queries_same_id_for_two_queries_is_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "q.jsonl", [plain("a", query_id="x"), plain("b", query_id="x")])
    with pytest.raises(QueryError, match="'file-x' stands for two different queries"):
        load_queries("file", str(file))


def test_load_queries_folder_gives_the_files_of_its_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "train-1.jsonl", [plain("b")])
    write_lines(tmp_path / "train-0.jsonl", [plain("a")])
    write_lines(tmp_path / "test-0.jsonl", [plain("c")])
    assert [query.query_id for query in load_queries("file", str(tmp_path))] == ["file-1", "file-2"]
    assert [query.query for query in load_queries("file", str(tmp_path), "test")] == ["c"]
    with pytest.raises(QueryError, match="of the split 'dev'"):
        load_queries("file", str(tmp_path), "dev")


def test_read_rows_dataset_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(QueryError, match="nobody/nothing-here@abc"):
        next(read_rows("nobody/nothing-here@abc", "", "train"))


def test_read_rows_dataset_is_loaded_by_its_id_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    write_lines(tmp_path / "org" / "name" / "train.jsonl", [plain("a"), plain("b")])
    write_lines(tmp_path / "org" / "name" / "test.jsonl", [plain("c"), {"query": None, "domain": "qa"}])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    # The revision keeps the id from being taken for the folder.
    assert [query.query for query in load_queries("file", "org/name@main", "train")] == ["a", "b"]
    with pytest.raises(QueryError, match=r"org/name@main, split 'test', row 2: field 'query' expected text"):
        load_queries("file", "org/name@main", "test")
    with pytest.raises(QueryError, match="the split 'dev' can't be loaded"):
        load_queries("file", "org/name@main", "dev")
