"""The system calls that a program in the sandbox may make, as a program for the kernel's seccomp (classic BPF).

Owns which calls are denied and how that is encoded; `sandbox_launcher` installs it. Denied is what reaches out of
namespaces (sockets of every family, AF_VSOCK among them), what holds memory that no process's resident size shows
(SysV segments, memfds, shared anonymous mappings, pages in pipes), and the parts of the kernel that programs under
test have no use for and exploits like. A denied call fails with EPERM. One of another architecture kills the program.

Calls newer than this file fail with ENOSYS, as on an older kernel, and so does `clone3`, whose flags a filter can't
see: C libraries go back to `clone`.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# By call: its number on x86_64 and on aarch64, None where that has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # Memory that isn't a process's own.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "vmsplice": (278, 75),
    "splice": (275, 76),
    "tee": (276, 77),
    "remap_file_pages": (216, 234),
    "io_setup": (206, 0),
    "userfaultfd": (323, 282),
    # Ways out. What a pair of connected sockets can do stays: event loops wake themselves with one.
    "socket": (41, 198),
    "bind": (49, 200),
    "connect": (42, 203),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "setsockopt": (54, 208),
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # Files and roots other than the sandbox's.
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "setns": (308, 268),
    "unshare": (272, 97),
    # Parts of the kernel with many ways in.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "personality": (135, 92),
    "seccomp": (317, 277),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    # The machine itself.
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "query_module": (178, None),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
}
# What every kernel since 6.7 has; on both architectures the same numbers.
_LAST_KNOWN = 456
# x86_64's second table, for 32-bit pointers, begins here.
_OTHER_TABLE = 0x40000000
_CLONE3 = 435

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
# Where `struct seccomp_data` holds what: the call's number, the architecture, and the lower half of each argument.
_NUMBER, _ARCHITECTURE = 0, 4

_NEW_NAMESPACES = 0x7E020000
_SHARED_ANONYMOUS = 0x21
_TYPE_OF_SOCKET, _UNIX, _STREAM = 0xF, 1, 1
_TYPE_INTO_TERMINAL, _TERMINAL_SELECTION = 0x5412, 0x541C


@dataclass(frozen=True)
class _Architecture:
    audit: int
    column: int
    clone: int
    mmap: int
    socketpair: int
    ioctl: int


_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000003E, 0, clone=56, mmap=9, socketpair=53, ioctl=16),
    "aarch64": _Architecture(0xC00000B7, 1, clone=220, mmap=222, socketpair=199, ioctl=29),
}

_Instruction = tuple[int, int, int, int]


class NoSyscallFilter(Exception):
    """There is none for this architecture. The message names it."""


def syscall_filter(machine: str) -> bytes:
    """The filter for one architecture.

    Args:
        machine: As `platform.machine()` names it.

    Returns:
        Instructions of 8 bytes each, `struct sock_filter` in little-endian order.

    Raises:
        NoSyscallFilter: No filter is known for it.
    """
    architecture = _ARCHITECTURES.get(machine)
    if architecture is None:
        raise NoSyscallFilter(f"no system call filter for {machine or 'this architecture'}")
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in _instructions(architecture))


def denied_calls(machine: str) -> dict[str, int]:
    """Numbers of the calls that always fail with EPERM on an architecture, by name."""
    column = _ARCHITECTURES[machine].column
    return {name: number for name, numbers in _DENIED.items() if (number := numbers[column]) is not None}


def _instructions(architecture: _Architecture) -> Iterator[_Instruction]:
    denied, missing = (_RETURN, 0, 0, _FAIL | errno.EPERM), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)
    killed, allowed = (_RETURN, 0, 0, _KILL), (_RETURN, 0, 0, _ALLOW)
    yield from (_load(_ARCHITECTURE), (_JUMP_EQUAL, 1, 0, architecture.audit), killed)
    yield from (_load(_NUMBER), (_JUMP_AT_LEAST, 0, 1, _OTHER_TABLE), killed)
    yield from ((_JUMP_AT_LEAST, 0, 1, _LAST_KNOWN + 1), missing)
    yield from ((_JUMP_EQUAL, 0, 1, _CLONE3), missing)
    for numbers in _DENIED.values():
        number = numbers[architecture.column]
        if number is not None:
            yield from ((_JUMP_EQUAL, 0, 1, number), denied)
    yield from _when(architecture.clone, [_load_argument(0), (_JUMP_ANY_BIT, 0, 1, _NEW_NAMESPACES), denied, allowed])
    shared = [(_AND, 0, 0, _SHARED_ANONYMOUS), (_JUMP_EQUAL, 0, 1, _SHARED_ANONYMOUS)]
    yield from _when(architecture.mmap, [_load_argument(3), *shared, denied, allowed])
    is_unix = [_load_argument(0), (_JUMP_EQUAL, 1, 0, _UNIX), denied]
    is_stream = [_load_argument(1), (_AND, 0, 0, _TYPE_OF_SOCKET), (_JUMP_EQUAL, 1, 0, _STREAM), denied]
    yield from _when(architecture.socketpair, [*is_unix, *is_stream, allowed])
    terminal = [(_JUMP_EQUAL, 1, 0, _TYPE_INTO_TERMINAL), (_JUMP_EQUAL, 0, 1, _TERMINAL_SELECTION)]
    yield from _when(architecture.ioctl, [_load_argument(1), *terminal, denied, allowed])
    yield allowed


def _load(offset: int) -> _Instruction:
    return _LOAD, 0, 0, offset


def _load_argument(index: int) -> _Instruction:
    return _load(16 + 8 * index)


def _when(number: int, rule: Iterable[_Instruction]) -> list[_Instruction]:
    """A rule for one call, that must return; others jump over it."""
    body = list(rule)
    return [(_JUMP_EQUAL, 0, len(body), number), *body]
