"""Server-sent events: how they are written, and where a reader goes on whose stream broke.

Owns the ids of events: <request id>:<place>.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from services.gateway.errors import invalid

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would collect them.
    (b"x-accel-buffering", b"no"),
]
"""Of a response that is a stream of events, as ASGI has them."""
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


def event(data: bytes, place: Place | None = None) -> bytes:
    """Writes one event.

    Args:
        data: One line of text, in UTF-8.
        place: Where a reader that has this event is.
    """
    return b"id: %b\ndata: %b\n\n" % (str(place).encode(), data) if place else b"data: %b\n\n" % data


def parse_place(event_id: str) -> Place:
    """Reads the id of an event.

    Raises:
        ApiError: It is none of the gateway's.
    """
    found = EVENT_ID.fullmatch(event_id)
    if found is None:
        raise invalid(LAST_EVENT_ID, "expected the id of an event of a stream of this server")
    return Place(found[1], int(found[2]))
