"""When bytes of a stream are sent, to a connection that takes them or doesn't."""

import asyncio

from starlette.types import Message

from services.gateway.streaming.event_stream import EventStream
from services.gateway.streaming.sse import KEEP_ALIVE
from tests.serving import until

LONG_S = 60.0


class Connection:
    """Keeps what is sent, while it takes any."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_over = False
        self.takes = asyncio.Event()
        self.takes.set()

    async def send(self, message: Message) -> None:
        await self.takes.wait()
        assert not self.is_over
        if message["type"] == "http.response.start":
            assert not self.sent
            self.sent.append(b"head")
        else:
            assert self.sent, "a body without a head"
            self.sent.append(message["body"])
            self.is_over = not message["more_body"]


async def test_stream_begins_once_each_choice_has_said_something() -> None:
    connection = Connection()
    stream = EventStream(connection.send, 2, LONG_S, b"opening ")
    await stream.put(0, b"a")
    await stream.put(0, b"b")
    assert not connection.sent
    assert not stream.has_begun
    await stream.put(1, b"")
    assert connection.sent == [b"head", b"opening ab"]
    await stream.put(0, b"c")
    await stream.put(1, b"")
    await stream.end(b"end")
    assert connection.sent[2:] == [b"c", b"end"]
    assert connection.is_over


async def test_answer_that_is_over_before_it_has_begun_comes_in_one_piece() -> None:
    connection = Connection()
    stream = EventStream(connection.send, 1, LONG_S, b"opening ")
    async with stream.kept_alive():
        pass
    await stream.end(b"all")
    assert connection.sent == [b"head", b"opening all"]
    assert connection.is_over


async def test_silence_begins_the_stream_and_is_broken_again_and_again() -> None:
    connection = Connection()
    stream = EventStream(connection.send, 1, 0.01, b"opening")
    async with stream.kept_alive():
        await until(lambda: len(connection.sent) >= 4, 10)
    await stream.end(b"end")
    assert connection.sent[:4] == [b"head", b"opening", KEEP_ALIVE, KEEP_ALIVE]
    assert connection.sent[-1] == b"end"


async def test_slow_connection_holds_choices_back_and_loses_nothing() -> None:
    connection = Connection()
    connection.takes.clear()
    stream = EventStream(connection.send, 2, LONG_S)

    async def say(index: int, texts: list[bytes]) -> None:
        for text in texts:
            await stream.put(index, text)

    choices = [
        asyncio.create_task(say(index, [name * size for size in (1, 2, 3)]))
        for index, name in enumerate((b"a", b"b"))
    ]
    await asyncio.sleep(0.01)
    assert not connection.sent
    # The other one spoke before there was anything to send.
    assert not choices[1].done()
    connection.takes.set()
    await asyncio.gather(*choices)
    await stream.end(b".")
    body = b"".join(connection.sent[1:])
    assert bytes(each for each in body if each in b"a.") == b"a" * 6 + b"."
    assert body.count(b"b") == 6


async def test_end_has_what_a_slow_connection_had_not_taken() -> None:
    connection = Connection()
    stream = EventStream(connection.send, 1, 0.01, b"opening")
    connection.takes.clear()
    async with stream.kept_alive():
        await asyncio.sleep(0.05)
    assert not stream.has_begun
    connection.takes.set()
    await stream.end(b" end")
    assert connection.sent == [b"head", b"opening end"]
