"""What other users of this machine see of a command: its command line, without the passwords of its URLs.

Owns finding and covering them. Takes Linux's /proc; where it isn't, or may not be written, the command line stays.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_PASSWORD = re.compile(rb"(?<=://)[^/@?#\s\0]*?:(?P<user_part>[^/?#\s\0]+)(?=@)|[?&]password=(?P<field>[^&#\s\0]+)")
_START, _END = 45, 46
"""Where arg_start and arg_end stand behind the process's name and state in /proc/PID/stat."""


def hide_passwords() -> None:
    """Covers passwords in the command line of this process. `sys.argv` keeps them."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        start, end = int(fields[_START]), int(fields[_END])
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            seen = memory.read(end - start)
            covered = without_passwords(seen)
            if covered != seen:
                memory.seek(start)
                memory.write(covered)


def without_passwords(command_line: bytes) -> bytes:
    """A command line of the same length in which each password of a URL is stars."""
    return _PASSWORD.sub(_covered, command_line)


def _covered(match: re.Match[bytes]) -> bytes:
    part = "user_part" if match["user_part"] is not None else "field"
    begin, length = match.start(part) - match.start(), len(match[part])
    return match[0][:begin] + b"*" * length + match[0][begin + length :]
