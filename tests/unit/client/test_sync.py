from __future__ import annotations

import threading
from collections import deque
from contextlib import closing

import grpc
import pytest

from services.client import Client, GenerationFailed, text_request
from tests.unit.cli.fakes import ANSWER, FakeOrchestrator, serving_orchestrator


def test_client_streams_completes_and_tells_what_is_served() -> None:
    with serving_orchestrator(FakeOrchestrator()) as address, Client(address) as client:
        assert [part.text for part in client.generate(text_request("x"))] == [part.text for part in ANSWER]
        assert client.complete(text_request("x")).text == "So four."
        assert client.server_info().slm.model_id == "tiny/slm"


def test_client_failure_is_raised_where_the_stream_is_read() -> None:
    failing = FakeOrchestrator(ANSWER[:2], grpc.StatusCode.INVALID_ARGUMENT, "stop[0]: no")
    texts: list[str] = []
    with (
        serving_orchestrator(failing) as address,
        Client(address) as client,
        pytest.raises(GenerationFailed) as error,
    ):
        texts.extend(part.text for part in client.generate(text_request("x")))
    assert (error.value.num_tokens, error.value.message) == (2, "stop[0]: no")


def test_client_that_leaves_its_stream_ends_the_call() -> None:
    orchestrator = FakeOrchestrator(ANSWER[:2], hangs=True)
    with serving_orchestrator(orchestrator) as address, Client(address) as client:
        with closing(client.generate(text_request("x"))) as parts:
            assert [next(parts).text for _ in range(2)] == ["So ", "four"]
        assert orchestrator.ended.wait(30)


def test_threads_share_a_client() -> None:
    texts: deque[str] = deque()
    with serving_orchestrator(FakeOrchestrator()) as address, Client(address) as client:
        threads = [
            threading.Thread(target=lambda: texts.append(client.complete(text_request("x")).text)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert list(texts) == ["So four."] * 8
