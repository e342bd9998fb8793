"""`trivium` on terminals of 80 and of 40 columns, without colours, and without a terminal."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from trivium.v1 import orchestrator_pb2 as pb

from tests.integration.harness.terminal import TRIVIUM, environment, terminal
from tests.unit.cli.fakes import ANSWER, FakeOrchestrator, delta, finish, serving_orchestrator

COLOUR = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9\d|10[0-7])(?:;[\d;]*)?m")
WIDTHS = pytest.mark.parametrize("columns", [80, 40])
LONG = (delta("So " * 60, pb.TOKEN_SOURCE_SLM), delta("four", pb.TOKEN_SOURCE_LLM), finish(2, 1))

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving_orchestrator(FakeOrchestrator()) as address:
        yield address


@WIDTHS
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["generate", "--help"], ["evaluate", "run", "--help"], []],
    ids=lambda given: " ".join(given),
)
def test_help_fits_the_terminal(arguments: list[str], columns: int) -> None:
    with terminal(*arguments, columns=columns) as shown:
        assert shown.end() in ((0,) if arguments else (0, 2))
    assert "Usage" in shown.screen
    assert max(map(len, shown.screen.split("\n"))) <= columns


@WIDTHS
@pytest.mark.parametrize(
    "arguments", [["rules", "list"], ["doctor"], ["generate", "hi", "--top-k", "-1"]], ids=" ".join
)
def test_tables_and_usage_errors_fit_the_terminal(
    arguments: list[str], columns: int, address: str, tmp_path: Path
) -> None:
    if arguments == ["doctor"]:
        arguments = ["doctor", "--address", address]
    with terminal(*arguments, columns=columns, environ={"TRIVIUM_STATE_DIR": str(tmp_path)}) as shown:
        shown.end()
    assert "Traceback" not in shown.screen
    if arguments[0] == "doctor":
        assert re.search("│ orchest(rator)? *│", shown.screen)
    framed = [line for line in shown.screen.split("\n") if re.search("[│┃╭╰┏└├┡]", line)]
    assert framed
    assert max(map(len, framed)) <= columns


@WIDTHS
def test_answer_is_not_broken_by_the_width_and_shows_who_wrote(columns: int, tmp_path: Path) -> None:
    with (
        serving_orchestrator(FakeOrchestrator(LONG)) as address,
        terminal("generate", "hi", "--address", address, columns=columns) as shown,
    ):
        assert shown.end() == 0
    assert shown.screen.startswith("So " * 60 + "four\n2 tokens, 1 (50.0%) by the LLM")
    assert "\x1b[1;95mfour\x1b[0m" in shown.written


@WIDTHS
def test_chat_holds_a_conversation(columns: int, address: str, tmp_path: Path) -> None:
    with terminal("chat", "--address", address, "--state-dir", str(tmp_path), columns=columns) as shown:
        for turn in range(1, 3):
            shown.wait_for("> ", times=turn)
            shown.type("2 + 2?\n")
            shown.wait_for("So four.", times=turn)
        shown.wait_for("> ", times=3)
        shown.wait_until_idle()
        shown.type("\x04")
        assert shown.end() == 0
    assert "Traceback" not in shown.screen
    assert (tmp_path / "chat_history").read_text().splitlines() == ["2 + 2?"]


def test_chat_bad_byte_that_is_typed_costs_its_line_alone(address: str, tmp_path: Path) -> None:
    with terminal("chat", "--address", address, "--state-dir", str(tmp_path)) as shown:
        shown.wait_for("> ")
        shown.type("caf\udce9\n")
        # Some versions of readline drop the byte themselves.
        shown.wait_for("> ", times=2)
        shown.type("2 + 2?\n")
        shown.wait_for("So four.")
        shown.type("/quit\n")
        assert shown.end() == 0


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (100, "the answer is cut off after 3 tokens (--max-new-tokens)"),
        (8, "the answer is cut off: the context of 8 tokens is full"),
    ],
    ids=["limit", "context"],
)
def test_answer_that_is_cut_off_says_so_in_generate_and_chat(limit: int, told: str, tmp_path: Path) -> None:
    cut = finish(3, 1)
    cut.finish.reason = pb.FINISH_REASON_LENGTH
    orchestrator = FakeOrchestrator((*ANSWER[:-1], cut), context_len=limit)
    with serving_orchestrator(orchestrator) as address:
        with terminal("generate", "hi", "--address", address, environ={"TRIVIUM_STATE_DIR": str(tmp_path)}) as shown:
            assert shown.end() == 0
        assert f"\n{told}\n" in shown.screen
        with terminal("chat", "--address", address, "--state-dir", str(tmp_path)) as shown:
            shown.wait_for("> ")
            shown.type("hi\n")
            shown.wait_for(told)
            shown.type("/quit\n")
            assert shown.end() == 0


@pytest.mark.parametrize("arguments", [["generate", "hi"], ["--help"], ["doctor"], ["generate"]], ids=" ".join)
def test_no_color_is_obeyed(arguments: list[str], address: str, tmp_path: Path) -> None:
    where = ["--address", address] if arguments in (["generate", "hi"], ["doctor"]) else []
    environ = {"TRIVIUM_STATE_DIR": str(tmp_path)}
    with terminal(*arguments, *where, environ=environ) as coloured:
        coloured.end()
    with terminal(*arguments, *where, environ={**environ, "NO_COLOR": "1"}) as plain:
        plain.end()
    assert COLOUR.search(coloured.written)
    assert not COLOUR.search(plain.written)


@pytest.mark.parametrize("name", ["dumb", "", "unknown-thing"])
def test_terminal_of_which_nothing_is_known_gets_the_answer(name: str, address: str, tmp_path: Path) -> None:
    environ = {"TERM": name, "TRIVIUM_STATE_DIR": str(tmp_path)}
    with terminal("generate", "hi", "--address", address, environ=environ) as shown:
        assert shown.end() == 0
    assert shown.screen.startswith("So four.\n3 tokens")


@pytest.mark.parametrize("arguments", [["generate", "hi"], ["chat"], ["--help"], ["doctor"], []], ids=str)
def test_without_a_terminal_nothing_but_text_is_written(arguments: list[str], address: str, tmp_path: Path) -> None:
    where = ["--address", address] if arguments and arguments != ["--help"] else []
    ended = subprocess.run(
        [*TRIVIUM, *arguments, *where],
        input="2 + 2?\n",
        capture_output=True,
        text=True,
        env=environment({"TRIVIUM_STATE_DIR": str(tmp_path)}),
        timeout=60,
        check=False,
    )
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    if arguments in (["generate", "hi"], ["chat"]):
        assert ended.stdout == "So four.\n"
