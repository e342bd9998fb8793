from __future__ import annotations

import json
import logging

from services.common.serving.logs import JsonFormatter


def _line(record: logging.LogRecord) -> dict[str, object]:
    line: dict[str, object] = json.loads(JsonFormatter("slm", "r1").format(record))
    return line


def test_record_becomes_one_json_line_with_its_extra_fields() -> None:
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "at %s", "args": ("a\nb",), "port": 5})
    line = _line(record)
    assert "\n" not in JsonFormatter("slm", "r1").format(record)
    expected = {"level": "INFO", "logger": "x", "message": "at a\nb", "service": "slm", "replica_id": "r1", "port": 5}
    assert {key: line[key] for key in expected} == expected
    assert set(line) == {*expected, "time"}


def test_exception_carries_its_traceback() -> None:
    error = ValueError("bad")
    record = logging.makeLogRecord({"msg": "failed", "exc_info": (ValueError, error, None)})
    assert "ValueError: bad" in str(_line(record)["traceback"])


def test_extra_that_json_cannot_hold_becomes_text() -> None:
    assert _line(logging.makeLogRecord({"msg": "x", "path": {1}}))["path"] == "{1}"
