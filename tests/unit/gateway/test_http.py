"""Bodies and connections that are large, slow or odd."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from tests.serving import until
from tests.unit.gateway.asking import CHAT, TEXT, asked, assert_error
from tests.unit.gateway.scripted import QUESTION, RunningGateway, serving

JSON = {"Content-Type": "application/json"}


async def sent(running: RunningGateway, data: bytes, *, ends: bool = False) -> bytes:
    """What comes back for these bytes, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(data)
    if ends:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def head(*lines: str) -> bytes:
    return "\r\n".join(
        [f"POST {CHAT} HTTP/1.1", "Host: x", "Content-Type: application/json", *lines, "", ""]
    ).encode()


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('APPLICATION/JSON;charset="UTF-8"', 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/json; charset=latin-1", 415),
        ("", 415),
    ],
)
async def test_body_has_to_be_json_in_utf8(content_type: str, status: int) -> None:
    async with serving() as running:
        response = await running.http.post(
            CHAT, content=json.dumps(QUESTION).encode(), headers={"Content-Type": content_type}
        )
    assert response.status_code == status
    if status != 200:
        assert_error(response, status, "Content-Type")


async def test_body_without_a_type_is_json_and_a_byte_order_mark_is_no_fault() -> None:
    async with serving() as running:
        response = await running.http.post(CHAT, content=json.dumps(QUESTION).encode("utf-8-sig"))
    assert response.status_code == 200


async def test_compressed_body_is_refused() -> None:
    async with serving() as running:
        response = await running.http.post(CHAT, content=b"{}", headers=JSON | {"Content-Encoding": "gzip"})
    assert_error(response, 415, "Content-Encoding")


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'"x"', b"nul", b"\xff", b'{"messages": NaN}'])
async def test_body_that_is_no_object_is_refused(data: bytes) -> None:
    async with serving() as running:
        for path in (CHAT, TEXT):
            assert_error(await running.http.post(path, content=data, headers=JSON), 400)


async def test_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    async with serving(max_body_mb=0.01) as running:
        answer = await sent(running, head("Content-Length: 100000000"))
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer
        assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"


async def test_body_of_unknown_length_is_read_to_its_bound_alone() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 1024

    async with serving(max_body_mb=0.01) as running:
        response = await running.http.post(CHAT, content=chunks(), headers=JSON)
    assert_error(response, 413)


async def test_body_that_does_not_arrive_is_given_up() -> None:
    async with serving(body_timeout_s=0.2) as running:
        started = time.monotonic()
        answer = await sent(running, head("Content-Length: 1000") + b'{"messages"')
        assert time.monotonic() - started < 5
    assert answer.startswith(b"HTTP/1.1 408")
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("data", [b"", b"POST /v1/chat", head()[:-2]])
async def test_head_that_does_not_arrive_closes_the_connection(data: bytes) -> None:
    async with serving(header_timeout_s=0.3) as running:
        started = time.monotonic()
        assert await sent(running, data) == b""
        assert 0.2 < time.monotonic() - started < 5


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", head("Content-Length: x"), b"\x16\x03\x01"]
)
async def test_bytes_that_are_no_http_have_the_shape_of_errors(data: bytes) -> None:
    async with serving() as running:
        answer = await sent(running, data)
    assert answer.startswith(b"HTTP/1.1 400")
    assert set(json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}


async def test_head_that_does_not_end_is_refused() -> None:
    async with serving() as running:
        answer = await sent(running, head(*(f"X-{number}: {'x' * 1000}" for number in range(100)))[:-2])
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"the head of the request" in answer


async def test_client_that_offers_http2_is_answered_all_the_same() -> None:
    body = json.dumps(QUESTION).encode()
    lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x")
    async with serving() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(head(f"Content-Length: {len(body)}", *lines) + body)
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_client_that_goes_away_within_its_body_leaves_nothing() -> None:
    async with serving() as running:
        _reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(head("Content-Length: 1000") + b'{"messages"')
        await until(lambda: running.gateway.counts.num_active == 1)
        writer.close()
        await until(lambda: running.gateway.counts.num_active == 0)
        assert running.gateway.counts.num_disconnects == 1
        assert not running.orchestrator.requests


async def test_client_that_expects_to_be_told_to_continue_is() -> None:
    body = json.dumps(QUESTION).encode()
    async with serving() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(head(f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_ten_thousand_messages_are_fine() -> None:
    messages = [{"role": ("user", "assistant")[index % 2], "content": f"{index} é"} for index in range(10_000)]
    async with serving() as running:
        await asked(running, messages=messages)
        [request] = running.orchestrator.requests
    assert len(request.chat.messages) == 10_000


@pytest.mark.parametrize("text", ["\0", "😀", "\u2028", "a" * 100_000, "<|im_end|>", "\u202e", "\ufeff"])
async def test_any_text_reaches_the_orchestrator_and_comes_back(text: str) -> None:
    async with serving() as running:
        echoed = await asked(running, TEXT, prompt=text, echo=True)
        [request] = running.orchestrator.requests
    assert request.text == text
    assert echoed["choices"][0]["text"] == f"{text}Hello, world."


async def test_thousand_requests_on_one_connection() -> None:
    async with serving() as running:
        body = json.dumps(QUESTION).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        for _ in range(1000):
            writer.write(head(f"Content-Length: {len(body)}") + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200")
            length = next(line for line in answer.decode().split("\r\n") if line.startswith("content-length"))
            await reader.readexactly(int(length.partition(":")[2]))
        writer.close()
    assert running.gateway.counts.statuses == {200: 1000}
