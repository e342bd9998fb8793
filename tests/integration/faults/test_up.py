"""`trivium up` as a supervisor: what dies comes back, and nothing outlives it."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from trivium.v1 import orchestrator_pb2_grpc

from evaluation.exactness import Reference
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair
from services.cli.channel import local_channel
from services.cli.pair.probe import probe
from services.cli.pair.state import load_state
from tests.integration.harness.clients import Clients
from tests.integration.harness.completions import endless_request, tell
from tests.integration.harness.up import (
    START_TIMEOUT_S,
    RunningUp,
    assert_all_end,
    command,
    running_up,
    trivium,
    until,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NUM_STREAMS = 8
RECOVERY_S = START_TIMEOUT_S
# The pause before a child is started again grows with each early end, so that more rounds take long.
NUM_ROUNDS = 1


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    with running_up(tmp_path_factory.mktemp("state")) as running:
        yield running


@asynccontextmanager
async def streaming(address: str, references: Sequence[Reference], pair: LoadedPair) -> AsyncIterator[Clients]:
    """Eight streams at a time, each of which has to be its reference."""
    clients = Clients(references, pair.tokenizer)
    running = [asyncio.create_task(clients.run(address)) for _ in range(NUM_STREAMS)]
    try:
        yield clients
    finally:
        clients.stopping = True
        await asyncio.gather(*running)


async def kill(up: RunningUp, name: str) -> None:
    """Kills a child and waits until it is back."""
    pid = up.pid_of(name)
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(up.lines_until, f"{name} (pid {pid}) was killed by SIGKILL; it is started again in ", 5)
    await asyncio.to_thread(up.lines_until, f"{name} is started again (pid ", RECOVERY_S)
    if name != "redis":
        await asyncio.to_thread(until, lambda: serves(up, name), RECOVERY_S)


def until_ended(clients: Clients, num_streams: int) -> None:
    until(lambda: clients.num_streams >= num_streams, RECOVERY_S)


def serves(up: RunningUp, name: str) -> bool:
    return probe(name, up.state.addresses[name], timeout_s=1.0).health == "SERVING"


async def test_up_children_killed_under_streams_come_back_and_no_stream_fails(
    up: RunningUp, references: list[Reference], reference_pair: LoadedPair
) -> None:
    addresses = up.state.addresses
    async with streaming(up.address, references, reference_pair) as clients:
        for _ in range(NUM_ROUNDS):
            for name in ("slm", "llm", "router", "redis"):
                num_streams = clients.num_streams
                await kill(up, name)
                # Streams that ran at the kill have ended since.
                await asyncio.to_thread(until_ended, clients, num_streams + NUM_STREAMS)
    tell("streams that ended as their references", clients.num_streams)
    tell("longest pause, s", round(clients.longest_pause_s, 1))
    assert up.state.addresses == addresses


async def test_up_orchestrator_killed_comes_back_where_it_was(up: RunningUp) -> None:
    address = up.address
    await kill(up, "orchestrator")
    assert up.address == address
    ended = trivium(up.state_dir, "generate", "hi", "--max-new-tokens", "1")
    assert ended.returncode == 0, ended.stderr


def test_up_listens_on_the_services_own_ports_alone(up: RunningUp) -> None:
    listening = {
        f"127.0.0.1:{connection.laddr.port}"
        for process in [psutil.Process(up.process.pid), *up.children()]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == set(up.state.addresses.values())


def test_up_second_one_in_the_same_place_is_refused(up: RunningUp) -> None:
    ended = trivium(up.state_dir, "up", "--port", "0", "--http-port", "0")
    assert ended.returncode == 1
    assert f"pid {up.process.pid}" in ended.stderr
    assert up.state.ready


@contextmanager
def endless_streams(address: str, reference: Reference, pair: LoadedPair) -> Iterator[None]:
    """Eight streams that run for longer than the test."""
    request = endless_request(reference, 900, pair)
    with local_channel(address) as channel:
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
        calls = [stub.Generate(request) for _ in range(NUM_STREAMS)]
        for call in calls:
            next(call)
        yield
        for call in calls:
            with pytest.raises(grpc.RpcError) as error:
                list(call)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.alone
def test_up_interrupted_under_streams_says_so_at_once_and_ends_within_3_s(
    up: RunningUp, routed_references: list[Reference], reference_pair: LoadedPair
) -> None:
    """The last of those that share a pair."""
    processes = up.children()
    with endless_streams(up.address, routed_references[0], reference_pair):
        started = time.monotonic()
        up.process.send_signal(signal.SIGINT)
        up.lines_until("stopping", timeout_s=1)
        said_s = time.monotonic() - started
        assert up.rest(timeout_s=3) == "stopped\n"
        seconds = time.monotonic() - started
    tell("seconds from Ctrl-C to the word that it stops, and to the end", (round(said_s, 2), round(seconds, 2)))
    assert up.process.returncode == 0
    assert seconds < 3
    assert_all_end(processes, 0.1)
    assert load_state(up.state_dir) is None


def test_up_killed_leaves_no_process_and_the_next_one_takes_away_what_it_left_on_disk(tmp_path: Path) -> None:
    with running_up(tmp_path) as up:
        processes = up.children()
        assert len(processes) >= 5
        [folder] = up.state.folders
        up.process.kill()
        up.process.wait(5)
        assert_all_end(processes, 5)
    assert folder.exists()
    again = RunningUp(tmp_path)
    again.lines_until("starting")
    again.stop()
    assert not folder.exists()


def test_up_whose_terminal_is_closed_leaves_no_process(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    # As a terminal emulator does: a session of its own, with the terminal in control of it.
    script = (
        "import fcntl, os, sys, termios as t; fcntl.ioctl(0, t.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command(tmp_path, "up", "--port", "0", "--http-port", "0")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        shown = b""
        while b"trivium generate" not in shown:
            assert select.select([ours], [], [], START_TIMEOUT_S)[0]
            shown += os.read(ours, 65536)
        processes = psutil.Process(process.pid).children(recursive=True)
        assert len(processes) >= 5
    finally:
        os.close(ours)
        process.wait(5)
    assert_all_end(processes, 5)
    assert load_state(tmp_path) is None


def test_up_port_taken_says_so_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = trivium(tmp_path, "up", "--port", port, "--http-port", "0")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: can't listen on 127.0.0.1:{port}")
    assert list(tmp_path.iterdir()) == []


def test_up_service_that_can_not_start_is_named_with_its_reason_in_one_line(tmp_path: Path) -> None:
    llm = tmp_path / "llm"
    shutil.copytree(WEIGHTS_DIR / "llm", llm)
    (llm / "model.safetensors").write_bytes(b"damaged")
    pair = tmp_path / "pair.yaml"
    pair.write_text(
        f"name: broken\ndescription: Its LLM is damaged.\nslm: {{model: {WEIGHTS_DIR / 'slm'}}}\n"
        f"llm: {{model: {llm}}}\nrouter: {{checkpoint: {WEIGHTS_DIR / 'router'}}}\n"
    )
    ended = trivium(tmp_path / "state", "up", "--port", "0", "--http-port", "0", "--pair", str(pair))
    assert ended.returncode == 1
    [error] = ended.stderr.splitlines()
    assert re.match(r"error: llm \(pid \d+\) ended with exit code 1: can't start: .*model\.safetensors", error)
    assert error.endswith(f"(log: {tmp_path / 'state' / 'logs' / 'llm.log'})")
    assert load_state(tmp_path / "state") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_up_interrupted_while_starting_stops_everything(number: signal.Signals, tmp_path: Path) -> None:
    up = RunningUp(tmp_path)
    try:
        up.lines_until("starting")
        until(lambda: len(up.state.processes) == 4, 60)
        processes = up.children()
        up.process.send_signal(number)
        assert up.rest(timeout_s=3).endswith("stopped\n")
    finally:
        up.stop()
    assert up.process.returncode == 0
    assert_all_end(processes, 0.1)
    assert load_state(tmp_path) is None
