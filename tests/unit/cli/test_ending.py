import errno
import os
import signal
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli import ending
from services.cli.errors import CliError


def raising(error: BaseException, cause: BaseException | None = None) -> Callable[[], None]:
    def command() -> None:
        raise error from cause

    return command


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (CliError("no such thing"), 1, "error: no such thing\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(3), 3, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: output: No space left on device\n"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "error: output: Disk quota exceeded\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), 1, "error: a/b: No such file\n"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 1, "error: a: Permission denied\n"),
    ],
    ids=repr,
)
def test_exit_code_error_is_an_exit_code_and_a_line(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending.exit_code(raising(error)) == code
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("error", "cause", "code"),
    [(ImportError("failed"), KeyboardInterrupt(), 130), (SystemExit(1), BrokenPipeError(), 141)],
    ids=["import", "pipe"],
)
def test_exit_code_error_of_what_lies_behind_it_has_the_code_of_that(
    error: BaseException, cause: BaseException, code: int
) -> None:
    assert ending.exit_code(raising(error, cause)) == code


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.ECONNRESET, "reset")], ids=repr)
def test_exit_code_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        ending.exit_code(raising(error))


def test_hooks_and_handlers_are_left_as_they_were() -> None:
    before = sys.unraisablehook, signal.getsignal(signal.SIGINT)
    ending.exit_code(lambda: None)
    with ending.interrupts_end_at_once():
        assert signal.getsignal(signal.SIGINT) is not before[1]
    assert (sys.unraisablehook, signal.getsignal(signal.SIGINT)) == before


@given(st.binary(max_size=20))
def test_is_text_is_true_of_utf8_alone(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        assert not ending.is_text(data.decode(errors="surrogateescape"))
    else:
        assert ending.is_text(data.decode())


def test_check_arguments_names_the_place_and_no_more_than_the_beginning() -> None:
    with pytest.raises(CliError, match=r"^argument 2 isn't UTF-8: \\xff(x+)$") as refused:
        ending.check_arguments(["generate", os.fsdecode(b"\xff" + b"x" * 10_000)])
    assert len(str(refused.value)) < 120
    ending.check_arguments(["généré", "", "π"])
