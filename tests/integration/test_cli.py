"""The `trivium` command against the reference pair in real processes."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.harness.up import RunningUp, running_up, trivium

QUESTION = "Ann starts with 24 stones. On Monday she buys 6 stones. How many stones does Ann have now?"
CONTEXT_LEN = 1024
"""Of the reference pair."""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    with running_up(tmp_path_factory.mktemp("state")) as running:
        yield running


def test_up_lines_name_every_service_and_end_with_ready(up: RunningUp) -> None:
    lines = up.start_lines
    assert lines[-1] == f"ready: pair reference answers on {up.address}\n"
    assert {line.split()[0] for line in lines[1:-1]} == {"redis", "slm", "router", "llm", "orchestrator", "gateway"}
    assert "redis.sock" in next(line for line in lines if line.startswith("redis "))


def test_gateway_of_up_answers_by_the_name_of_the_pair(up: RunningUp) -> None:
    url = f"http://{up.state.addresses['gateway']}/v1/chat/completions"
    body = {"model": "reference", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    answer = httpx.post(url, json=body, timeout=60).json()
    assert "The answer is" in answer["choices"][0]["message"]["content"]


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
    [orchestrator] = [service for service in report["services"] if service["service"] == "orchestrator"]
    assert orchestrator["info"]["load"]["prefix_index_available"]
    assert report["advice"] == []


def test_doctor_one_service_down_is_named(up: RunningUp) -> None:
    ended = trivium(up.state_dir, "doctor", "--json", "--llm", "127.0.0.1:1")
    [problem] = json.loads(ended.stdout)["problems"]
    assert problem.startswith("llm at 127.0.0.1:1 doesn't answer")
    assert ended.returncode == 1


def test_demo_answers_a_question_of_each_domain() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli", "demo"], capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for domain in ("math", "code", "qa"):
        assert f"[{domain}]" in ended.stdout
    assert ended.stdout.count("The answer is") == 3
    assert "Summary" in ended.stdout


def test_up_password_of_a_redis_is_in_no_command_line_and_no_log(tmp_path: Path) -> None:
    up = RunningUp(tmp_path, "--redis-url", "redis://:opensesame@127.0.0.1:1/0")
    try:
        up.lines_until("orchestrator ")
        processes = [psutil.Process(up.process.pid), *up.children()]
        seen = [" ".join(process.cmdline()) for process in processes]
    finally:
        up.stop()
    assert any("services.orchestrator" in command_line for command_line in seen)
    assert not [command_line for command_line in seen if "opensesame" in command_line]
    assert not [path for path in tmp_path.rglob("*.log") if "opensesame" in path.read_text()]


def test_chat_that_fills_the_context_says_what_to_do_and_goes_on_after_a_reset(up: RunningUp) -> None:
    long_question = "word " * 300
    turns = "".join(f"{long_question}\n" for _ in range(6))
    ended = trivium(up.state_dir, "chat", "--max-new-tokens", "8", stdin=f"{turns}/reset\n{QUESTION}\n")
    assert ended.returncode == 0, ended.stderr
    assert "/reset forgets it" in ended.stderr
    assert "the answer is cut off after 8 tokens (--max-new-tokens)" in ended.stderr.split("is forgotten")[-1]


def test_generate_answer_that_fills_the_context_says_so(up: RunningUp) -> None:
    # Three tokens a word, so that a few more are left for the answer.
    ended = trivium(up.state_dir, "generate", "word " * (CONTEXT_LEN // 3 - 2), "--raw")
    assert ended.returncode == 0, ended.stderr
    assert f"the answer is cut off: the context of {CONTEXT_LEN} tokens is full" in ended.stderr
