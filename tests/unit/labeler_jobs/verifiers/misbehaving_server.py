"""A real HTTP server on loopback that answers chat completions, or misbehaves as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0
    hang_up: bool = False


def answered(content: str | None) -> Reply:
    return Reply(body=json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode())


@dataclass
class ChatServer:
    """What the server was asked: paths, headers and payloads, and how many requests were under way at a time."""

    port: int
    payloads: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    num_open: int = 0
    max_open: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def serve(reply: Callable[[int, str], Reply]) -> Iterator[ChatServer]:
    """Serve until the block ends; `reply` is given a request's number, from 0, and its user message."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(state.payloads)
                state.payloads.append(payload)
                state.paths.append(self.path)
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                state.num_open += 1
                state.max_open = max(state.max_open, state.num_open)
            try:
                self._send(reply(number, payload["messages"][0]["content"]))
            except BrokenPipeError:
                pass
            finally:
                with lock:
                    state.num_open -= 1

        def _send(self, told: Reply) -> None:
            time.sleep(told.delay_s)
            self.close_connection = True
            if told.hang_up:
                return
            self.send_response(told.status)
            self.send_header("Content-Length", str(len(told.body)))
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for byte in told.body if told.drip_s else ():
                self.wfile.write(bytes([byte]))
                time.sleep(told.drip_s)
            if not told.drip_s:
                self.wfile.write(told.body)

        def log_message(self, format: str, *args: object) -> None:
            """Tests read what the server was asked from its state."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state = ChatServer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
