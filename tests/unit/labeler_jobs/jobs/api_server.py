"""An HTTP server on loopback with as much of a Kubernetes API server's protocol as labelling uses, and its moods.

It stores objects, lists and watches them, and misbehaves when it is told to: it drops connections in the middle of an
event, forgets old resource versions, refuses, or is away.
"""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

Object = dict[str, Any]
NAMESPACE = "labelling"


class ApiServer:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.objects: dict[str, dict[str, Object]] = {}
        self.events: list[tuple[int, str, str, Object]] = []
        self.logs: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.refusals: dict[tuple[str, str], tuple[int, str]] = {}
        self.missing_rights: set[tuple[str, str]] = set()
        self.groups: dict[str, str] = {}
        self.on_job: Callable[[Object], None] = lambda job: None
        self.is_away = False
        self.oldest_version = 0
        self.num_drops = 0
        self.num_watches = 0
        self._version = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._closing = False

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: self._http.serve_forever(poll_interval=0.02))
        self._thread.start()
        return self

    def __exit__(self, *ending: object) -> None:
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def client(self) -> client.ApiClient:
        return client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{self._http.server_port}"))

    def put(self, collection: str, item: Object) -> Object:
        """Creates or replaces an object, and tells those who watch."""
        with self.changed:
            self._version += 1
            named = self.objects.setdefault(collection, {})
            name = item["metadata"].setdefault("name", f"{item['metadata'].get('generateName', '')}{self._version}")
            metadata = named.get(name, item)["metadata"]
            item["metadata"]["uid"] = metadata.get("uid", f"uid-{self._version}")
            kind = "MODIFIED" if name in named else "ADDED"
            named[name] = copy.deepcopy(item)
            self._tell(kind, collection, named[name])
            return item

    def remove(self, collection: str, name: str) -> None:
        with self.changed:
            self._version += 1
            self._tell("DELETED", collection, self.objects[collection].pop(name))

    def drop_connections(self) -> None:
        """Closes every watch in the middle of an event."""
        with self.changed:
            self.num_drops += 1
            self.changed.notify_all()

    def forget_versions(self) -> None:
        """Makes all resource versions so far too old."""
        with self.changed:
            self._version += 1
            self.oldest_version = self._version
            self.changed.notify_all()

    def await_watches(self, number: int) -> None:
        """Waits until so many watches were opened, in all."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.num_watches >= number, timeout=10)

    def _tell(self, kind: str, collection: str, item: Object) -> None:
        item["metadata"]["resourceVersion"] = str(self._version)
        self.events.append((self._version, collection, kind, copy.deepcopy(item)))
        self.changed.notify_all()

    def _listed(self, collection: str, query: dict[str, str]) -> Object:
        with self.changed:
            items = [item for item in self.objects.get(collection, {}).values() if _is_selected(item, query)]
            return {"metadata": {"resourceVersion": str(self._version)}, "items": copy.deepcopy(items)}

    def _watched(self, collection: str, query: dict[str, str]) -> Iterator[bytes | None]:
        """Lines of a watch; None drops the connection in the middle of one."""
        seen = int(query["resourceVersion"])
        with self.changed:
            self.num_watches += 1
            num_drops = self.num_drops
            self.changed.notify_all()
            while not self._closing:
                if seen < self.oldest_version:
                    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                    yield _line("ERROR", gone)
                    return
                for version, where, kind, item in self.events:
                    if version > seen and where == collection and _is_selected(item, query):
                        yield _line(kind, item)
                seen = self._version
                if self.num_drops > num_drops:
                    yield None
                    return
                self.changed.wait()

    def _answer(self, method: str, path: str, query: dict[str, str], body: Object | None) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if parts == ["apis"]:
            groups = [{"name": name, "preferredVersion": {"version": item}} for name, item in self.groups.items()]
            return 200, {"groups": groups}
        if parts[-1] == "selfsubjectaccessreviews":
            assert body is not None
            asked = body["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            return 201, {"status": {"allowed": (asked["verb"], resource) not in self.missing_rights}}
        if parts[-1] == "log":
            return 200, self.logs[parts[-2]]
        place = parts.index(NAMESPACE) + 1
        collection, name = parts[place], parts[place + 1] if len(parts) > place + 1 else ""
        if (method, collection) in self.refusals:
            status, message = self.refusals[method, collection]
            return status, {"kind": "Status", "message": message, "code": status}
        if method == "POST":
            assert body is not None
            created = self.put(collection, body)
            threading.Thread(target=self.on_job, args=(created,)).start()
            return 201, created
        if name and name not in self.objects.get(collection, {}):
            return 404, {"kind": "Status", "message": f'{collection} "{name}" not found', "code": 404}
        if method == "DELETE":
            self.remove(collection, name)
            return 200, {}
        return 200, self.objects[collection][name] if name else self._listed(collection, query)

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                size = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(size)) if size else None
                server.requests.append((self.command, self.path))
                if server.is_away:
                    self.reply(503, {"message": "the server is away", "code": 503})
                elif query.get("watch", "").lower() == "true":
                    self.stream(server._watched(url.path.rpartition("/")[2], query))
                else:
                    self.reply(*server._answer(self.command, url.path, query, body))

            do_GET = do_POST = do_DELETE = handle_any

            def reply(self, status: int, answer: Any) -> None:
                content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
                self.send_header("Content-Length", str(len(content)))
                try:
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    # The other end was interrupted.
                    return

            def stream(self, lines: Iterator[bytes | None]) -> None:
                self.close_connection = True
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                try:
                    for line in lines:
                        content = b'{"type": "MODI' if line is None else line
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
                        self.wfile.flush()
                        if line is None:
                            return
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    return

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handler


@contextmanager
def api_server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


def _line(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def _is_selected(item: Object, query: dict[str, str]) -> bool:
    labels = item["metadata"].get("labels", {})
    fields = {"metadata.name": item["metadata"]["name"], "type": item.get("type"), "reason": item.get("reason")}
    fields["involvedObject.uid"] = item.get("involvedObject", {}).get("uid")
    wanted = [(labels, query.get("labelSelector", "")), (fields, query.get("fieldSelector", ""))]
    for found, selector in wanted:
        for part in filter(None, selector.split(",")):
            name, _, value = part.partition("=")
            if (found.get(name.removesuffix("!")) == value) == name.endswith("!"):
                return False
    return True
