"""files/ask_over_http.py, which `helm test` runs: what it takes for an answer, and what not."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.cli.doctor.options import QUESTION
from tests.certificates import SERVER_NAME, Authority
from tests.unit.chart.harness.helm import CHART, Helm, named, values

SCRIPT = CHART / "files" / "ask_over_http.py"
PARTS = [{"choices": [{"delta": {"content": text}}]} for text in ("14 and 8 ", "are 22.")]


def usage(num_llm_tokens: int, rule: str = "router:threshold=0.4") -> dict[str, Any]:
    return {"choices": [], "usage": {"completion_tokens": 7, "llm_tokens": num_llm_tokens, "rule": rule}}


USAGE = usage(2)
WHOLE = [*PARTS, USAGE]


@dataclass
class Door:
    """A gateway that answers with the chunks it is given.

    Attributes:
        chunks: Of each stream.
        is_whole: Whether the stream ends as it should.
        status: Of an answer; its body is an error if it isn't 200.
        is_serving: Whether /health says so.
        requests: Key and body of each request for an answer.
    """

    chunks: list[dict[str, Any]]
    is_whole: bool = True
    status: int = 200
    is_serving: bool = True
    requests: list[tuple[str | None, dict[str, Any]]] = field(default_factory=list)

    def answer(self) -> bytes:
        events = [json.dumps(chunk) for chunk in self.chunks] + (["[DONE]"] if self.is_whole else [])
        return b": keep-alive\n\n" + "".join(f"id: a:1\ndata: {event}\n\n" for event in events).encode()


@contextmanager
def serving(door: Door, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health":
                self.send(200 if door.is_serving else 503, b"{}")
            else:
                self.send(200, json.dumps({"data": [{"id": "small+large"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            door.requests.append((self.headers["Authorization"], body))
            refusal = json.dumps({"error": {"message": "stop: too long"}}).encode()
            self.send(door.status, door.answer() if door.status == 200 else refusal)

        def send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(
    door: Door, *, question: str = "", key: str = "", tls: ssl.SSLContext | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs the script as the pod does."""
    with serving(door, tls) as url:
        command = [sys.executable, "-c", SCRIPT.read_text(encoding="utf-8"), url, "0", question]
        environ = ({"API_KEY": key} if key else {}) | variables
        return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)


def test_whole_stream_passes_and_its_tokens_are_told() -> None:
    door = Door(WHOLE)
    done = run(door, question="Why?", key="secret")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("7 tokens of small+large in 2 chunks over HTTP, 2 by the LLM, rule router")
    [(key, body)] = door.requests
    assert key == "Bearer secret"
    assert (body["model"], body["stream"]) == ("small+large", True)
    assert body["messages"] == [{"role": "user", "content": "Why?"}]


def test_question_is_the_scripts_own_unless_given() -> None:
    door = Door(WHOLE)
    assert run(door).returncode == 0
    [(key, body)] = door.requests
    assert key is None
    assert body["messages"][0]["content"] == QUESTION


@pytest.mark.parametrize(
    ("door", "reason"),
    [
        (Door(WHOLE, is_serving=False), "/health after 0 s: 503"),
        (Door(WHOLE, status=400), "/v1/chat/completions: 400"),
        (Door(PARTS, is_whole=False), "the stream broke off after 2 events"),
        (Door([*PARTS, {"error": {"message": "lost"}}]), "the stream failed: {'message': 'lost'}"),
        (Door(PARTS), "the last chunk tells no usage"),
        (Door([PARTS[0], USAGE]), "not streamed: 7 tokens"),
        (Door([*PARTS, usage(0)]), "not routed: 7 tokens"),
        (Door([*PARTS, usage(7)]), "not routed: 7 tokens"),
        (Door([*PARTS, usage(0, "entropy:threshold=9")]), "0 by the LLM, rule entropy:threshold=9"),
    ],
)
def test_what_is_no_whole_stream_fails_and_says_why(door: Door, reason: str) -> None:
    done = run(door)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("rule", "num_llm_tokens"), [("slm", 0), ("llm", 7)])
def test_one_model_may_write_all_where_the_rule_says_so(rule: str, num_llm_tokens: int) -> None:
    assert run(Door([*PARTS, usage(num_llm_tokens, rule)])).returncode == 0


def test_over_https_the_ca_and_the_name_are_asked_for_and_a_certificate_is_shown(tmp_path: Path) -> None:
    authority = Authority()
    secret = authority.issue(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=secret.ca)
    tls.load_cert_chain(secret.certificate, secret.key)
    tls.verify_mode = ssl.CERT_REQUIRED
    given = {"CA_FILE": str(secret.ca), "SERVER_NAME": SERVER_NAME, "CERTIFICATE_DIR": str(tmp_path)}

    done = run(Door(WHOLE), tls=tls, **given)
    assert (done.returncode, done.stderr) == (0, "")
    for missing in given:
        done = run(Door(WHOLE), tls=tls, **{name: value for name, value in given.items() if name != missing})
        assert done.returncode == 1, missing
        assert "/health after 0 s: " in done.stderr, missing


def test_nobody_listening_fails_and_says_where() -> None:
    command = [sys.executable, str(SCRIPT), "http://127.0.0.1:9", "0", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("http://127.0.0.1:9/health after 0 s: ")


def test_test_pod_runs_the_script_against_the_service(helm: Helm) -> None:
    manifests = helm.render(values("test.prompt=Why?,test.timeoutS=99,gateway.service.port=8080"))
    pod = named(manifests, "Pod", "test-http")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    [container] = pod["spec"]["containers"]
    assert container["command"] == ["python3", "-c", SCRIPT.read_text(encoding="utf-8")]
    assert container["args"] == ["http://demo-trivium-gateway:8080", "99", "Why?"]
