"""The `trivium` command against the reference pair in real processes."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.cli.pair.state import RunningPair, load_state

QUESTION = "Ann starts with 24 stones. On Monday she buys 6 stones. How many stones does Ann have now?"
START_TIMEOUT_S = 120


class RunningUp:
    """A `trivium up` that is ready."""

    def __init__(self, process: subprocess.Popen[str], state_dir: Path, output: list[str]) -> None:
        self.process = process
        self.state_dir = state_dir
        self.output = output

    @property
    def state(self) -> RunningPair:
        state = load_state(self.state_dir)
        assert state is not None
        return state

    def rest(self) -> str:
        """What it says until its end."""
        return self.process.communicate(timeout=60)[0]


def trivium(state_dir: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(state_dir, *arguments), input=stdin, capture_output=True, text=True, timeout=120, check=False
    )


def command(state_dir: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "services.cli", *arguments, "--state-dir", str(state_dir)]


@contextmanager
def running_up(state_dir: Path) -> Iterator[RunningUp]:
    process = subprocess.Popen(
        command(state_dir, "up", "--port", "0"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        output = []
        for line in process.stdout:
            output.append(line)
            if line.startswith("ready"):
                break
        else:
            pytest.fail("".join(output))
        yield RunningUp(process, state_dir, output)
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    with running_up(tmp_path_factory.mktemp("state")) as running:
        yield running


def test_up_lines_name_every_service_and_end_with_ready(up: RunningUp) -> None:
    address = up.state.addresses["orchestrator"]
    assert up.output[-1] == f"ready: pair reference answers on {address}\n"
    assert {line.split()[0] for line in up.output[1:-1]} == {"slm", "router", "llm", "orchestrator"}


def test_generate_streams_the_answer_and_sums_it_up(up: RunningUp) -> None:
    ended = trivium(up.state_dir, "generate", QUESTION)
    assert ended.returncode == 0, ended.stderr
    assert "The answer is" in ended.stdout
    assert re.search(
        r"\d+ tokens, \d+ \([\d.]+%\) by the LLM · average parameters .* of .* · \d+ tokens/s", ended.stderr
    )


@pytest.mark.parametrize(("threshold", "source"), [("0", "llm"), ("2", "slm")])
def test_generate_threshold_decides_who_writes(up: RunningUp, threshold: str, source: str) -> None:
    ended = trivium(up.state_dir, "generate", QUESTION, "--json", "--threshold", threshold, "--max-new-tokens", "12")
    answer = json.loads(ended.stdout)
    assert [token["source"] for token in answer["tokens"]] == [source] * 12
    assert answer["finish_reason"] == "length"


def test_generate_stop_string_ends_the_answer(up: RunningUp) -> None:
    ended = trivium(up.state_dir, "generate", QUESTION, "--json", "--stop", "The answer")
    answer = json.loads(ended.stdout)
    assert answer["stop"] == "The answer"
    assert "The answer" not in answer["text"]


def test_generate_sampled_with_a_seed_is_the_same_again(up: RunningUp) -> None:
    arguments = ("generate", QUESTION, "--temperature", "1.5", "--seed", "3", "--max-new-tokens", "40")
    first, second = (trivium(up.state_dir, *arguments) for _ in range(2))
    assert first.returncode == 0
    assert first.stdout == second.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "", "--raw"], "INVALID_ARGUMENT"),
        (["generate", "hi", "--max-new-tokens", "0"], "max_new_tokens"),
        (["generate", "hi", "--threshold", "-1"], "threshold"),
        (["generate", "hi", "--threshold", "nan"], "threshold"),
        (["generate", "hi", "--target-llm-usage", "2"], "target_llm_usage"),
        (["generate", "hi", "--target-avg-params-b", "0"], "target_avg_params_b"),
        (["generate", "hi", "--stop", ""], "stop"),
        (["generate", "word " * 5000], "OUT_OF_RANGE"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_generate_bad_input_is_one_line_and_the_pair_serves_on(
    up: RunningUp, arguments: list[str], message: str
) -> None:
    ended = trivium(up.state_dir, *arguments)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: orchestrator ")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert trivium(up.state_dir, "generate", "hi", "--max-new-tokens", "1").returncode == 0


def test_chat_second_turn_reuses_the_first(up: RunningUp) -> None:
    ended = trivium(up.state_dir, "chat", stdin=f"{QUESTION}\nAnd without the 6?\n/quit\n")
    assert ended.returncode == 0, ended.stderr
    reused = re.findall(r"prefix reused of (\d+) tokens: SLM (\d+), LLM (\d+)", ended.stderr)
    assert len(reused) == 2
    prompt_len, slm, llm = map(int, reused[1])
    assert prompt_len > int(reused[0][0])
    assert slm > 0
    assert llm > 0


def test_doctor_healthy_pair_exits_zero(up: RunningUp) -> None:
    ended = trivium(up.state_dir, "doctor", "--json")
    report = json.loads(ended.stdout)
    assert report["problems"] == []
    assert ended.returncode == 0
    assert {service["health"] for service in report["services"]} == {"SERVING"}


def test_doctor_one_service_down_is_named(up: RunningUp) -> None:
    ended = trivium(up.state_dir, "doctor", "--json", "--llm", "127.0.0.1:1")
    [problem] = json.loads(ended.stdout)["problems"]
    assert problem.startswith("llm at 127.0.0.1:1 doesn't answer")
    assert ended.returncode == 1


def test_up_second_one_in_the_same_place_is_refused(up: RunningUp) -> None:
    ended = trivium(up.state_dir, "up", "--port", "0")
    assert ended.returncode == 1
    assert f"pid {up.process.pid}" in ended.stderr
    assert up.state.ready


def test_up_port_taken_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = trivium(tmp_path, "up", "--port", port)
    assert ended.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in ended.stderr
    assert load_state(tmp_path) is None


def test_up_service_killed_is_named_with_its_log_and_the_rest_is_stopped(tmp_path: Path) -> None:
    with running_up(tmp_path) as running:
        processes = children_of(running.process.pid)
        psutil.Process(running.state.processes["llm"].pid).kill()
        said = running.rest()
        assert running.process.returncode == 1
    assert "error: llm (pid " in said
    assert "was killed by signal 9" in said
    assert '"message": "ready"' in said
    assert psutil.wait_procs(processes, timeout=1)[1] == []


def test_up_after_a_killed_one_ends_what_it_left_and_stops_all_on_sigterm(tmp_path: Path) -> None:
    killed = subprocess.Popen(command(tmp_path, "up", "--port", "0"), stdout=subprocess.DEVNULL)
    try:
        left = children_once_started(killed, tmp_path)
    finally:
        killed.kill()
        killed.wait()
    with running_up(tmp_path) as again:
        assert psutil.wait_procs(left, timeout=1)[1] == []
        processes = children_of(again.process.pid)
        assert len(processes) >= 5
        again.process.terminate()
        assert again.rest() == "stopped\n"
        assert again.process.returncode == 0
    assert psutil.wait_procs(processes, timeout=1)[1] == []
    assert load_state(tmp_path) is None


def test_up_interrupted_while_starting_stops_everything(tmp_path: Path) -> None:
    starting = subprocess.Popen(command(tmp_path, "up", "--port", "0"), stdout=subprocess.PIPE, text=True)
    processes = children_once_started(starting, tmp_path)
    starting.send_signal(signal.SIGINT)
    assert starting.communicate(timeout=60)[0].endswith("stopped\n")
    assert starting.returncode == 0
    assert psutil.wait_procs(processes, timeout=1)[1] == []
    assert load_state(tmp_path) is None


def test_demo_answers_a_question_of_each_domain() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli", "demo"], capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for domain in ("math", "code", "qa"):
        assert f"[{domain}]" in ended.stdout
    assert ended.stdout.count("The answer is") == 3
    assert "Summary" in ended.stdout


def children_once_started(process: subprocess.Popen[Any], state_dir: Path) -> list[psutil.Process]:
    """Waits until Redis, slm, router and llm are started."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = load_state(state_dir)
        if state is not None and len(state.processes) == 4:
            return children_of(process.pid)
        time.sleep(0.05)
    pytest.fail("nothing was started")


def children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)
