"""Keeps a view of objects on the API server up to date, through whatever happens to the connection.

Owns listing, watching, and beginning again: after a dropped connection, an expired resource version (410 Gone) or a
server that is away, everything is listed anew, so nothing that changed meanwhile is missed.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError

from labeler_jobs.jobs.situation import Object

logger = logging.getLogger(__name__)

# A connection that died without a word is noticed when the server doesn't end the watch in time.
_WATCH_S, _READ_S, _CONNECT_S = 45, 60, 10
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.2, 10.0
_STOP_S = 2.0
_GONE, _TOO_MANY, _SERVER = 410, 429, 500


class Follower:
    """A view of the objects that a list call gives. A context manager: its thread runs inside the block.

    Args:
        list_call: A list function of the official client.
        changed: Set whenever there is something new.
        selectors: What to list: the function's own arguments.
    """

    def __init__(self, list_call: Callable[..., Any], changed: threading.Event, **selectors: Any) -> None:
        self._list_call = list_call
        self._changed = changed
        self._selectors = selectors
        self._lock = threading.Lock()
        self._objects: dict[str, Object] | None = None
        self._away_since: float | None = None
        self._delay_s = _FIRST_DELAY_S
        self._refusal: ApiException | None = None
        self._watch: Watch | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        until = time.monotonic() + _STOP_S
        # More than once: a watch that is just about to open hears nothing yet.
        while self._thread.is_alive() and time.monotonic() < until:
            if self._watch is not None:
                self._watch.stop()  # type: ignore[no-untyped-call]
            self._thread.join(0.05)

    @property
    def objects(self) -> list[Object] | None:
        """The objects as last seen; None before they were seen first.

        Raises:
            ApiException: The server refuses to tell.
        """
        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            return None if self._objects is None else list(self._objects.values())

    @property
    def away_s(self) -> float:
        """Seconds since the server was last heard, 0 while it is."""
        with self._lock:
            return 0.0 if self._away_since is None else time.monotonic() - self._away_since

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except ApiException as error:
                if error.status is not None and error.status not in (_GONE, _TOO_MANY) and error.status < _SERVER:
                    self._refuse(error)
                    return
                self._lose(f"{error.status} {error.reason}")
            except (HTTPError, OSError, json.JSONDecodeError) as error:
                self._lose(str(error))
            self._stopped.wait(self._delay_s)

    def _follow(self) -> None:
        """Lists and watches until the server ends the watch."""
        listed = json.loads(
            self._list_call(**self._selectors, _preload_content=False, _request_timeout=(_CONNECT_S, _READ_S)).data
        )
        self._replace(listed["items"])
        self._watch = Watch(return_type="object")  # type: ignore[no-untyped-call]
        events = self._watch.stream(  # type: ignore[no-untyped-call]
            self._list_call,
            **self._selectors,
            resource_version=listed["metadata"]["resourceVersion"],
            timeout_seconds=_WATCH_S,
            _request_timeout=(_CONNECT_S, _READ_S),
        )
        for event in events:
            if self._stopped.is_set():
                return
            if event is not None and event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                self._apply(event["type"], event["raw_object"])

    def _replace(self, items: list[Object]) -> None:
        with self._lock:
            self._objects = {item["metadata"]["uid"]: item for item in items}
            self._away_since = None
            self._delay_s = _FIRST_DELAY_S
        self._changed.set()

    def _apply(self, kind: str, item: Object) -> None:
        with self._lock:
            assert self._objects is not None
            if kind == "DELETED":
                self._objects.pop(item["metadata"]["uid"], None)
            else:
                self._objects[item["metadata"]["uid"]] = item
        self._changed.set()

    def _lose(self, why: str) -> None:
        logger.debug("listing anew: %s", why)
        with self._lock:
            self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)
            if self._away_since is None:
                self._away_since = time.monotonic()

    def _refuse(self, error: ApiException) -> None:
        with self._lock:
            self._refusal = error
        self._changed.set()
