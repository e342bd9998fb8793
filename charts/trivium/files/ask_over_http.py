"""Asks one question at the gateway, as OpenAI's clients do: fails unless both models wrote some of a whole stream.

One alone may whom the rule leaves all to. Runs in a pod of `helm test`, with nothing but the standard library:
`ask_over_http.py URL SECONDS QUESTION`. An API key comes from API_KEY. Over HTTPS, the CAs of the file CA_FILE are
trusted, or the image's if there is none; the certificate has to be for SERVER_NAME, or for what the URL names;
tls.crt and tls.key in CERTIFICATE_DIR are shown.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUESTION = (
    "Ann starts with 24 stones. On Monday she buys 6 stones. On Tuesday she loses 2 stones. On Wednesday she wins 2 "
    "stones. On Thursday she drops 5 stones. On Friday she buys 3 stones. How many stones does Ann have now?"
)
"""The question of `trivium smoke`."""
_RULES_OF_ONE_MODEL = ("slm", "llm")
_POLL_S = 0.5
_ANSWER_TIMEOUT_S = 60.0
_TRY_TIMEOUT_S = 5.0


class _Tls(ssl.SSLContext):
    """Asks for a certificate of one name, whatever the URL says."""

    server_name = os.environ.get("SERVER_NAME")

    def wrap_socket(self, *arguments: Any, server_hostname: Any = None, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*arguments, server_hostname=self.server_name or server_hostname, **options)


def tls_of_environment() -> ssl.SSLContext:
    """What connections are encrypted with."""
    context = _Tls(ssl.PROTOCOL_TLS_CLIENT)
    authority = os.environ.get("CA_FILE", "")
    if Path(authority).is_file():
        context.load_verify_locations(authority)
    else:
        context.load_default_certs()
    if certificates := os.environ.get("CERTIFICATE_DIR"):
        context.load_cert_chain(f"{certificates}/tls.crt", f"{certificates}/tls.key")
    return context


class Failed(Exception):
    """The gateway didn't do what it should. The message tells what."""


def await_serving(url: str, timeout_s: float) -> None:
    """Waits until requests are taken.

    Raises:
        Failed: They aren't after timeout_s seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=_TRY_TIMEOUT_S):
                return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise Failed(f"{url}/health after {timeout_s:.0f} s: {_reason(error)}") from None
        time.sleep(_POLL_S)


def ask(url: str, question: str) -> str:
    """Streams an answer of the model that is served; returns what there is to tell of it.

    Raises:
        Failed: The request was refused, or the stream isn't one, breaks off, tells no usage, or is one model's.
    """
    [model] = json.load(_open(f"{url}/v1/models"))["data"]
    body = {
        "model": model["id"],
        "messages": [{"role": "user", "content": question}],
        "max_completion_tokens": 256,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = time.monotonic()
    events = list(_events(_open(f"{url}/v1/chat/completions", body)))
    if not events or events[-1] != "[DONE]":
        raise Failed(f"the stream broke off after {len(events)} events")
    chunks: list[dict[str, Any]] = [json.loads(event) for event in events[:-1]]
    errors = [chunk["error"] for chunk in chunks if "error" in chunk]
    if errors:
        raise Failed(f"the stream failed: {errors[0]}")
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    num_parts = sum(1 for choice in choices if any(map(choice["delta"].get, ("content", "reasoning_content"))))
    usage = chunks[-1].get("usage") if chunks else None
    if not usage:
        raise Failed("the last chunk tells no usage")
    num_tokens, num_llm, rule = usage["completion_tokens"], usage["llm_tokens"], usage["rule"]
    told = f"{num_tokens} tokens of {model['id']} in {num_parts} chunks over HTTP, {num_llm} by the LLM, rule {rule}"
    if num_parts < 2:
        raise Failed(f"not streamed: {told}")
    if not 0 < num_llm < num_tokens and rule not in _RULES_OF_ONE_MODEL:
        raise Failed(f"not routed: {told}; doesn't the rule, or the router, fit this pair?")
    return f"{told}, {time.monotonic() - began:.1f} s"


def _events(lines: Iterator[bytes]) -> Iterator[str]:
    """The data of server-sent events of one line each; comments are left out."""
    for line in lines:
        if line.startswith(b"data:"):
            yield line.removeprefix(b"data:").strip().decode()


def _open(url: str, body: dict[str, Any] | None = None) -> Any:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=_ANSWER_TIMEOUT_S)
    except OSError as error:
        raise Failed(f"{url}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.read(2000).decode(errors='replace')}"
    return str(error)


def main() -> None:
    """Entry point. Ends with 1 and a line on stderr after a failure."""
    url, timeout_s, question = sys.argv[1:]
    if url.startswith("https:"):
        handler = urllib.request.HTTPSHandler(context=tls_of_environment())
        urllib.request.install_opener(urllib.request.build_opener(handler))
    try:
        await_serving(url, float(timeout_s))
        sys.stdout.write(ask(url, question or QUESTION) + "\n")
    except Failed as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
