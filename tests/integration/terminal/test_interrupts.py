"""Ctrl-C at every stage of `trivium`: it ends with the exit code 130 and without a traceback."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.harness.terminal import CTRL_C, TRIVIUM, environment, piped, terminal
from tests.unit.cli.fakes import ANSWER, FakeOrchestrator, serving_orchestrator

pytestmark = pytest.mark.integration

# Read by the interpreter before anything of Trivium: the process interrupts itself once it imports a module.
INTERRUPTING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPTED_IMPORT"]:
            sys.meta_path.remove(self)
            {how}

sys.meta_path.insert(0, Interrupting())
"""
RAISED = "os.kill(os.getpid(), signal.SIGINT)"
IN_A_FINALIZER = """
            class Finalized:
                def __del__(self):
                    os.kill(os.getpid(), signal.SIGINT)
            Finalized()
            import time
            time.sleep(5)
"""
MADE_AN_ERROR = """
            try:
                os.kill(os.getpid(), signal.SIGINT)
                import time
                time.sleep(5)
            except BaseException as error:
                raise ImportError("failed to import") from error
"""
WITHIN_EXEC = """
            exec("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)")
"""


def interrupting(folder: Path, module: str, how: str = RAISED) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(INTERRUPTING.format(how=how))
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, "INTERRUPTED_IMPORT": module}


def run(*arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TRIVIUM, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(environ),
        timeout=60,
        check=False,
    )


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("typer", ["generate", "hi"]),
        ("rich", ["--help"]),
        ("typer.rich_utils", ["--help"]),
        ("services.cli.ask.options", ["--help"]),
        ("services.cli.train.commands", ["--help"]),
        ("services.client", ["generate", "hi"]),
        ("grpc", ["generate", "hi"]),
        ("google.protobuf", ["generate", "hi"]),
        ("trivium.v1.orchestrator_pb2", ["chat"]),
        ("pydantic", ["doctor"]),
        ("yaml", ["up", "--pair", "reference"]),
        ("psutil", ["up"]),
        ("torch", ["train", "--data", "a", "--validation", "b", "--out", "c"]),
        ("pyarrow", ["evaluate", "report"]),
        ("numpy", ["rules", "list"]),
        ("hypothesis", ["rules", "check", "entropy"]),
    ],
    ids=str,
)
def test_interrupt_during_an_import_ends_with_130_and_no_word(
    module: str, arguments: list[str], tmp_path: Path
) -> None:
    ended = run(*arguments, environ=interrupting(tmp_path, module) | {"TRIVIUM_STATE_DIR": str(tmp_path)})
    assert (ended.returncode, ended.stderr) == (130, "")


@pytest.mark.parametrize(
    "how", [IN_A_FINALIZER, MADE_AN_ERROR, WITHIN_EXEC], ids=["finalizer", "made an error", "exec"]
)
@pytest.mark.parametrize("module", ["typer", "grpc"])
def test_interrupt_that_an_import_swallows_ends_with_130_all_the_same(how: str, module: str, tmp_path: Path) -> None:
    ended = run("generate", "hi", environ=interrupting(tmp_path, module, how))
    assert (ended.returncode, ended.stderr) == (130, "")


@pytest.mark.parametrize(
    "arguments",
    [["generate", "hi"], ["generate", "hi", "--json"], ["chat"], ["evaluate", "run", "--suite", "aime"], ["doctor"]],
    ids=" ".join,
)
def test_interrupt_while_connecting_ends_with_130(arguments: list[str], tmp_path: Path) -> None:
    with (
        silent_server() as address,
        terminal(
            *arguments, "--address", address, "--state-dir", str(tmp_path), environ=signalled(tmp_path)
        ) as shown,
    ):
        shown.wait_for("connecting now")
        shown.type(CTRL_C)
        assert shown.end() == 130
        assert shown.screen.replace("connecting now\n", "") in ("^C", "^C\n")


def signalled(folder: Path) -> dict[str, str]:
    """Has the process say so when its first channel is opened: by then all is imported."""
    (folder / "sitecustomize.py").write_text(
        "import sys, threading\n"
        "def told(name, arguments):\n"
        "    if name == 'import' and arguments[0] == 'trivium.v1.orchestrator_pb2_grpc':\n"
        "        threading.Timer(1, print, ['connecting now']).start()\n"
        "sys.addaudithook(told)\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("more", [[], ["--raw"]], ids=["chat template", "raw"])
def test_interrupt_while_an_answer_streams_keeps_what_came_and_ends_with_130(more: list[str], tmp_path: Path) -> None:
    orchestrator = FakeOrchestrator(ANSWER[:2], hangs=True)
    with (
        serving_orchestrator(orchestrator) as address,
        terminal("generate", "hi", "--address", address, "--state-dir", str(tmp_path), *more) as shown,
    ):
        shown.wait_for("So four")
        shown.type(CTRL_C)
        assert shown.end() == 130
        assert orchestrator.ended.wait(10), "the request went on without its client"
    assert shown.screen == "So four^C\n"


def test_interrupt_of_json_prints_nothing_and_ends_with_130(tmp_path: Path) -> None:
    orchestrator = FakeOrchestrator(ANSWER[:2], hangs=True)
    with (
        serving_orchestrator(orchestrator) as address,
        subprocess.Popen(
            [*TRIVIUM, "generate", "hi", "--json", "--address", address, "--state-dir", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment({}),
        ) as process,
    ):
        while not orchestrator.requests:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"")
        assert process.returncode == 130


def test_interrupt_of_an_answer_in_a_chat_ends_the_answer_alone(tmp_path: Path) -> None:
    orchestrator = FakeOrchestrator(ANSWER[:2], hangs=True)
    with (
        serving_orchestrator(orchestrator) as address,
        terminal("chat", "--address", address, "--state-dir", str(tmp_path)) as shown,
    ):
        shown.wait_for("> ")
        shown.type("2 + 2?\n")
        shown.wait_for("So four")
        shown.type(CTRL_C)
        shown.wait_for("stopped; this question is forgotten")
        shown.type("/quit\n")
        assert shown.end() == 0
    assert "Traceback" not in shown.screen


def test_interrupt_at_the_prompt_of_a_chat_empties_the_line_and_then_ends_with_130(tmp_path: Path) -> None:
    orchestrator = FakeOrchestrator()
    with (
        serving_orchestrator(orchestrator) as address,
        terminal("chat", "--address", address, "--state-dir", str(tmp_path)) as shown,
    ):
        shown.wait_for("> ")
        shown.type("half a quest")
        shown.wait_for("half a quest")
        shown.wait_until_idle()
        shown.type(CTRL_C)
        shown.wait_for("Ctrl-C again, or /quit, ends the conversation")
        shown.type("2 + 2?\n")
        shown.wait_for("tokens/s")
        shown.wait_for("> ", times=3)
        shown.wait_until_idle()
        shown.type(CTRL_C)
        shown.wait_for("Ctrl-C again, or /quit, ends the conversation", times=2)
        shown.wait_until_idle()
        shown.type(CTRL_C)
        assert shown.end() == 130
    assert [request.chat.messages[-1].content for request in orchestrator.requests] == ["2 + 2?"]
    assert "Traceback" not in shown.screen


def test_interrupt_of_a_chat_that_reads_a_pipe_ends_with_130(tmp_path: Path) -> None:
    orchestrator = FakeOrchestrator()
    with (
        serving_orchestrator(orchestrator) as address,
        piped("chat", "--address", address, "--state-dir", str(tmp_path)) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"2 + 2?\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"So four.\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert b"Traceback" not in process.stderr.read()
