"""Writes logs as JSON lines on stderr.

Owns the format only. What is worth a line: INFO for a process's lifecycle, DEBUG for a request, nothing for a
token, and never the text of a prompt.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: what is passed as `extra` becomes fields of its own."""

    def __init__(self, service: str, replica_id: str) -> None:
        super().__init__()
        self._process = {"service": service, "replica_id": replica_id}

    def format(self, record: logging.LogRecord) -> str:
        """Formats one record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._process,
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str, *, service: str, replica_id: str) -> None:
    """Sends the logs of this process to stderr, replacing what was configured before.

    Args:
        level: Name of the least severe level, e.g. "INFO".
        service: Name of the service, on every line.
        replica_id: Name of this process among its replicas, on every line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service, replica_id))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # gRPC's own DEBUG lines come several a message.
    logging.getLogger("grpc").setLevel(logging.WARNING)
