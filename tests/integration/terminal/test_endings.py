"""How `trivium` ends where its streams, its arguments or the disk can't be used: never by a traceback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trivium.v1 import orchestrator_pb2 as pb

from tests.integration.harness.terminal import TRIVIUM, environment, piped
from tests.unit.cli.fakes import FakeOrchestrator, delta, finish, serving_orchestrator

LONG_ANSWER = (*[delta("word " * 40 + "\n", pb.TOKEN_SOURCE_SLM) for _ in range(2000)], finish(2000))
FULL = Path("/dev/full")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def orchestrator() -> FakeOrchestrator:
    return FakeOrchestrator()


@pytest.fixture(scope="module")
def address(orchestrator: FakeOrchestrator) -> Iterator[str]:
    with serving_orchestrator(orchestrator) as address:
        yield address


def run(
    *arguments: str | bytes | Path,
    stdin: bytes = b"",
    stdout: Path | None = None,
    environ: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    with open(stdout or os.devnull, "wb") as out:
        return subprocess.run(
            [*TRIVIUM, *arguments],
            input=stdin,
            stdout=out if stdout else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(environ or {}),
            timeout=60,
            check=False,
        )


def assert_one_line(ended: subprocess.CompletedProcess[bytes], words: str) -> None:
    told = ended.stderr.decode()
    assert ended.returncode == 1, told
    assert told.startswith("error: ")
    assert told.count("\n") == 1, told
    assert words in told


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["generate", "hi"],
        ["generate", "hi", "--json"],
        ["doctor"],
        ["doctor", "--json"],
        ["rules", "list"],
        ["keys", "new", "--tenant", "acme"],
        ["evaluate", "sandbox"],
        ["chat"],
    ],
    ids=" ".join,
)
def test_output_to_a_full_device_is_one_line(arguments: list[str], address: str, tmp_path: Path) -> None:
    if arguments[0] in ("generate", "doctor", "chat"):
        arguments = [*arguments, "--address", address, "--state-dir", str(tmp_path)]
    ended = run(*arguments, stdin=b"hi\n", stdout=FULL)
    told = ended.stderr.decode().splitlines()
    assert ended.returncode == 1, told
    assert told[-1] == "error: output: No space left on device"
    assert "Traceback" not in ended.stderr.decode()


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_messages_to_a_full_device_end_without_a_traceback(address: str) -> None:
    with FULL.open("wb") as full:
        ended = subprocess.run(
            [*TRIVIUM, "generate", "hi", "--address", address],
            stdout=subprocess.PIPE,
            stderr=full,
            timeout=60,
            check=False,
        )
    assert (ended.returncode, ended.stdout) == (1, b"So four.\n")


@pytest.mark.parametrize("arguments", [["generate", "hi"], ["generate", "hi", "--json"], ["chat"]], ids=" ".join)
def test_pipe_that_closes_early_ends_quietly_as_sigpipe_would(arguments: list[str], tmp_path: Path) -> None:
    with (
        serving_orchestrator(FakeOrchestrator(LONG_ANSWER)) as address,
        piped(*arguments, "--address", address, "--state-dir", str(tmp_path)) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"hi\nhi\n")
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read().decode()
        assert process.wait(60) == 141, told
    assert "Traceback" not in told
    assert "Broken" not in told
    assert "ignored" not in told


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_streams_that_are_not_there_are_empty_ones(descriptor: int, address: str) -> None:
    script = f"import os, sys; os.close({descriptor}); os.execv(sys.argv[1], sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", script, *TRIVIUM, "generate", "hi", "--address", address],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == (b"" if descriptor == 1 else b"So four.\n")
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", b"caf\xe9"],
        ["generate", "hi", "--stop", b"\xff"],
        ["generate", "hi", "--rule", b"\xc3"],
        ["generate", "hi", "--address", b"\xfe"],
        ["chat", "--system", b"\xed\xa0\x80"],
        ["up", "--pair", b"\x80.yaml"],
        ["evaluate", "run", "--suite", "aime", "--run-id", b"\xe9"],
        [b"\xe9"],
    ],
    ids=repr,
)
def test_argument_that_is_not_utf8_is_one_line_that_names_it(arguments: list[str | bytes]) -> None:
    ended = run(*arguments)
    [place] = [place for place, argument in enumerate(arguments, 1) if isinstance(argument, bytes)]
    assert_one_line(ended, f"argument {place} isn't UTF-8")


@pytest.mark.parametrize("environ", [{}, {"LC_ALL": "C"}, {"PYTHONUTF8": "0"}], ids=str)
def test_stdin_that_is_not_utf8_is_one_line_that_names_its_line(environ: dict[str, str], address: str) -> None:
    ended = run("generate", "-", "--address", address, stdin=b"first\nca\xc3\xa9 caf\xe9\n", environ=environ)
    assert_one_line(ended, "stdin isn't UTF-8: line 2")


def test_stdin_of_another_encoding_is_read_as_that(orchestrator: FakeOrchestrator, address: str) -> None:
    ended = run("generate", "-", "--address", address, stdin=b"caf\xe9", environ={"PYTHONIOENCODING": "latin-1"})
    assert ended.returncode == 0, ended.stderr
    assert orchestrator.requests[-1].chat.messages[0].content == "café"


def test_chat_bad_byte_costs_its_line_alone(orchestrator: FakeOrchestrator, address: str, tmp_path: Path) -> None:
    before = len(orchestrator.requests)
    ended = run(
        "chat", "--address", address, "--state-dir", tmp_path, stdin=b"one\ntw\xff\nthr\xc3\xa9e\n\xed\xa0\x80\n"
    )
    assert ended.returncode == 0, ended.stderr
    asked = [request.chat.messages[-1].content for request in orchestrator.requests[before:]]
    assert asked == ["one", "thrée"]
    assert ended.stderr.decode().count("this line isn't UTF-8") == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_that_stdout_lacks_end_nothing(encoding: str) -> None:
    answer = (delta("π ≈ 3 é", pb.TOKEN_SOURCE_SLM), finish(1))
    with serving_orchestrator(FakeOrchestrator(answer)) as address:
        ended = run("generate", "hi", "--address", address, environ={"PYTHONIOENCODING": encoding})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.decode(encoding).startswith(r"\u03c0 \u2248 3 ")


@pytest.mark.parametrize(
    "arguments",
    [["generate", "hi"], ["chat"], ["doctor"], ["evaluate", "run", "--suite", "aime"], ["up"]],
    ids=" ".join,
)
def test_state_dir_that_is_a_file_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert_one_line(run(*arguments, "--state-dir", file, stdin=b"hi\n"), "--state-dir")


def test_state_file_of_bytes_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "running.json").write_bytes(b"\xff\xfe\x00")
    assert_one_line(run("generate", "hi", "--state-dir", tmp_path), "not a state file")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "hi", "--max-new-tokens", "99999999999"],
        ["generate", "hi", "--max-new-tokens", "-1"],
        ["generate", "hi", "--temperature", "1", "--top-k", "99999999999"],
        ["generate", "hi", "--temperature", "1", "--seed", str(2**64)],
        ["generate", "hi", "--timeout-s", "1e300"],
        ["generate", "hi", "--timeout-s", "inf"],
        ["generate", "hi", "--timeout-s", "nan"],
        ["chat", "--max-new-tokens", str(2**31)],
        ["up", "--port", "65536"],
        ["up", "--start-timeout-s", "1e30"],
        ["train", "--seed", str(2**63)],
        ["rules", "check", "entropy", "--max-examples", "9" * 30],
    ],
    ids=" ".join,
)
def test_number_that_nothing_can_carry_is_a_usage_error_that_names_its_option(arguments: list[str]) -> None:
    ended = run(*arguments, environ={"COLUMNS": "200"})
    assert ended.returncode == 2, ended.stderr
    assert f"Invalid value for '{arguments[-2]}'".encode() in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_evaluate_run_looks_for_the_orchestrator_before_it_loads_anything(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.jsonl")
    ended = run("evaluate", "run", "--suite", "aime", "--data", missing, "--address", "127.0.0.1:1")
    assert_one_line(ended, "orchestrator 127.0.0.1:1: UNAVAILABLE")


@pytest.mark.parametrize("arguments", [["bench", "--json"], ["fit", "--json"], ["fit", "--figure"]], ids=" ".join)
@pytest.mark.parametrize("name", ["missing/values.json", ""])
def test_file_of_results_that_cannot_be_written_is_found_before_anything_is_measured(
    arguments: list[str], name: str, tmp_path: Path
) -> None:
    ended = run(*arguments, tmp_path / name, environ={"COLUMNS": "300"})
    assert ended.returncode == 2, ended.stderr
    assert f"Invalid value for '{arguments[-1]}'".encode() in ended.stderr
