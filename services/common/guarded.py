"""Becomes another program, which ends when the process that started it does: `command` says how it is run.

Owns that promise alone: PR_SET_PDEATHSIG outlives `exec`, so that the program itself needs nothing. It holds even
where SIGKILL ends the parent, which no handler sees. Needs the standard library alone, and starts in milliseconds.

The kernel watches the *thread* that started this process: a thread that starts children has to outlive them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def command(program: Sequence[str]) -> list[str]:
    """The command line by which this process runs a program that ends with it.

    Args:
        program: The absolute path of a program, and its arguments.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *program]


def main(parent_pid: int, program: list[str]) -> None:
    """Binds this process to its parent and becomes `program`."""
    libc = ctypes.CDLL(None, use_errno=True)
    # What a drain would hand over to has lost its parent, too.
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have ended before the kernel was told.
    if os.getppid() == parent_pid:
        os.execv(program[0], program)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
