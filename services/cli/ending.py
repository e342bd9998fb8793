"""How the process of a command begins and ends: its streams, Ctrl-C, a reader that has left, a disk that is full.

Owns exit codes and the one line that tells why, for everything that no command answers for itself. Needs the standard
library alone, so that it holds while the rest is being imported.
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from services.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from typing import NoReturn, TextIO

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
PIPE_CLOSED = 141
"""Exit code when nobody reads the output any more, as a shell tells it of a command that SIGPIPE ended."""

_OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
_AGAIN_S = 0.05


@contextmanager
def interrupts_end_at_once() -> Iterator[None]:
    """Lets Ctrl-C end the process where nothing is there yet that would have to be cleaned up."""
    previous = signal.getsignal(signal.SIGINT)
    _end_at_once_on_interrupt()
    try:
        yield
    finally:
        # Another thread may not, and hasn't.
        with suppress(ValueError):
            signal.signal(signal.SIGINT, previous)


def exit_code(command: Callable[[], None]) -> str | int | None:
    """Runs a command; where it can't do its work, one line on stderr says why.

    Returns:
        What the process is to end with, as `sys.exit` takes it.
    """
    previous, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        return _flushed(_code_of(command))
    finally:
        sys.unraisablehook = previous


def leave(code: str | int | None) -> NoReturn:
    """Ends the process."""
    if code != INTERRUPTED:
        # By then nothing is left to stop, and the interpreter would tell of Ctrl-C by a traceback.
        atexit.register(_end_at_once_on_interrupt)
        sys.exit(code)
    # Where Ctrl-C has passed through `exec`, the interpreter ends by the signal, whatever the exit code.
    _end_at_once_on_interrupt()
    atexit._run_exitfuncs()
    os._exit(INTERRUPTED)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuses bytes that aren't UTF-8: no file of a service, no message and no log could carry them.

    Raises:
        CliError: Naming the argument.
    """
    for place, argument in enumerate(arguments, start=1):
        if not is_text(argument):
            shown = os.fsencode(argument)[:60]
            raise CliError(f"argument {place} isn't UTF-8: {str(shown)[2:-1]}")


def is_text(read: str) -> bool:
    """Whether all bytes were UTF-8 of what the command line or stdin gave."""
    return not any("\ud800" <= character <= "\udfff" for character in read)


def _code_of(command: Callable[[], None]) -> str | int | None:
    try:
        _open_streams()
        command()
    except SystemExit as ending:
        return PIPE_CLOSED if _was_caused_by(ending, BrokenPipeError) else ending.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except CliError as error:
        return _told(str(error))
    except BrokenPipeError:
        return PIPE_CLOSED
    except Exception as error:
        # Some imports turn what interrupts them into an error of their own.
        if _was_caused_by(error, KeyboardInterrupt):
            return INTERRUPTED
        if not isinstance(error, OSError) or (error.filename is None and error.errno not in _OUTPUT_ERRORS):
            raise
        return _told(f"{error.filename or 'output'}: {error.strerror or error}")
    return 0


def _told(message: str) -> int:
    with suppress(OSError):
        print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return 1


def _flushed(code: str | int | None) -> str | int | None:
    """Writes what is still held back, since the interpreter could tell of a failure by a traceback alone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            if stream is sys.stdout and not code:
                closed = isinstance(error, BrokenPipeError)
                code = PIPE_CLOSED if closed else _told(f"output: {error.strerror}")
            _discard(stream)
    return code


def _discard(stream: TextIO) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def _open_streams() -> None:
    """What was started without stdin, stdout or stderr has empty ones; no file or socket gets their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    # A bad byte is its reader's to tell of, and no character that the terminal lacks ends a command.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _end_at_once_on_interrupt() -> None:
    # What was started with Ctrl-C ignored, as by a shell's `&`, goes on ignoring it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):
            signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


def _interrupt_again(unraisable: UnraisableHookArgs) -> None:
    """Ctrl-C that arrives where nothing can be raised, as in a finalizer, is lost: it comes again a moment later."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    import threading

    try:
        threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGINT)).start()
    except RuntimeError:
        # The interpreter is about to end.
        os._exit(INTERRUPTED)


def _was_caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
