"""Server-sent events: how they are written, and where a reader goes on whose stream broke.

Owns the ids of events: <request id>:<place>.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from services.gateway.errors import invalid

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # nginx would collect them.
    "X-Accel-Buffering": "no",
}
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
LAST_EVENT_ID = "Last-Event-ID"
EVENT_ID = re.compile(r"([A-Za-z0-9]{1,64}):([0-9]{1,9})")
"""What an id looks like, whole."""


class Place(NamedTuple):
    """Where a stream broke.

    Args:
        request_id: Of the request.
        num_known: The `Choice.place` up to which the reader has it.
    """

    request_id: str
    num_known: int

    def __str__(self) -> str:
        return f"{self.request_id}:{self.num_known}"


def event(data: dict[str, Any], place: Place | None = None) -> bytes:
    """Writes one event."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"id: {place}\ndata: {text}\n\n" if place else f"data: {text}\n\n").encode()


def parse_place(event_id: str) -> Place:
    """Reads the id of an event.

    Raises:
        ApiError: It is none of the gateway's.
    """
    found = EVENT_ID.fullmatch(event_id)
    if found is None:
        raise invalid(LAST_EVENT_ID, "expected the id of an event of a stream of this server")
    return Place(found[1], int(found[2]))
