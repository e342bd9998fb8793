"""The filter, run as the kernel runs it: instruction by instruction, over every call."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.graders.isolation.syscall_filter import NoSyscallFilter, denied_calls, syscall_filter

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE = {"x86_64": 56, "aarch64": 220}
MMAP = {"x86_64": 9, "aarch64": 222}
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
IOCTL = {"x86_64": 16, "aarch64": 29}
# read, write, openat, execve, exit_group, futex, munmap, wait4, pipe2, getrandom, sendfile, kill
ORDINARY = {
    "x86_64": (0, 1, 257, 59, 231, 202, 11, 61, 293, 318, 40, 62),
    "aarch64": (63, 64, 56, 221, 94, 98, 215, 260, 59, 278, 71, 129),
}
ALLOW, KILL, DENY, MISSING = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
machines = pytest.mark.parametrize("machine", sorted(AUDIT))


def decide(code: bytes, number: int, audit: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would answer."""
    padded = (*arguments, *([0] * (6 - len(arguments))))
    data = struct.pack("<iIQ6Q", number, audit, 0, *(argument % 2**64 for argument in padded))
    position = accumulator = 0
    while True:
        operation, if_true, if_false, value = struct.unpack_from("<HBBI", code, 8 * position)
        position += 1
        match operation:
            case 0x20:
                assert value % 4 == 0
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                position += if_true if accumulator == value else if_false
            case 0x35:
                position += if_true if accumulator >= value else if_false
            case 0x45:
                position += if_true if accumulator & value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"no such instruction: {operation:#x}")


@machines
def test_syscall_filter_denies_every_listed_call_and_no_ordinary_one(machine: str) -> None:
    code = syscall_filter(machine)
    denied = denied_calls(machine)
    assert {name for name in denied if decide(code, denied[name], AUDIT[machine]) != DENY} == set()
    assert [number for number in ORDINARY[machine] if decide(code, number, AUDIT[machine]) != ALLOW] == []


@machines
def test_syscall_filter_names_each_number_once(machine: str) -> None:
    numbers = list(denied_calls(machine).values())
    assert len(numbers) == len(set(numbers))
    assert not set(numbers) & {CLONE[machine], MMAP[machine], SOCKETPAIR[machine], IOCTL[machine], *ORDINARY[machine]}


@machines
@given(number=st.integers(0, 2**31 - 1), arguments=st.tuples(*[st.integers(0, 2**64 - 1)] * 6))
def test_syscall_filter_allows_only_calls_that_it_knows(
    machine: str, number: int, arguments: tuple[int, ...]
) -> None:
    answer = decide(syscall_filter(machine), number, AUDIT[machine], arguments)
    if number >= 0x40000000:
        assert answer == KILL
    elif number > 456:
        assert answer == MISSING


@machines
@given(number=st.integers(0, 500), audit=st.integers(0, 2**32 - 1))
def test_syscall_filter_kills_calls_of_other_architectures(machine: str, number: int, audit: int) -> None:
    if audit != AUDIT[machine]:
        assert decide(syscall_filter(machine), number, audit) == KILL


@machines
@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_syscall_filter_denies_new_namespaces_but_no_threads(machine: str, flag: int) -> None:
    code, threads = syscall_filter(machine), 0x3D0F00
    assert decide(code, CLONE[machine], AUDIT[machine], (threads,)) == ALLOW
    assert decide(code, CLONE[machine], AUDIT[machine], (threads | flag,)) == DENY
    assert decide(code, 435, AUDIT[machine]) == MISSING


@machines
@pytest.mark.parametrize(
    ("flags", "answer"),
    [(0x22, ALLOW), (0x02, ALLOW), (0x01, ALLOW), (0x21, DENY), (0x23, DENY), (0x40021, DENY), (2**40 | 0x21, DENY)],
    ids=["private", "private file", "shared file", "shared", "validated", "huge pages", "upper half"],
)
def test_syscall_filter_denies_shared_anonymous_memory(machine: str, flags: int, answer: int) -> None:
    assert decide(syscall_filter(machine), MMAP[machine], AUDIT[machine], (0, 4096, 3, flags)) == answer


@machines
@given(family=st.integers(0, 50), kind=st.sampled_from([1, 2, 3, 5, 0x80001, 0x80002, 0x801]))
def test_syscall_filter_leaves_pairs_of_unix_streams_alone(machine: str, family: int, kind: int) -> None:
    answer = decide(syscall_filter(machine), SOCKETPAIR[machine], AUDIT[machine], (family, kind))
    assert answer == (ALLOW if family == 1 and kind & 0xF == 1 else DENY)


@machines
@pytest.mark.parametrize(("request_", "answer"), [(0x5412, DENY), (0x541C, DENY), (0x5401, ALLOW)])
def test_syscall_filter_denies_typing_into_a_terminal(machine: str, request_: int, answer: int) -> None:
    assert decide(syscall_filter(machine), IOCTL[machine], AUDIT[machine], (0, request_)) == answer


@pytest.mark.parametrize("machine", ["riscv64", "i686", ""])
def test_syscall_filter_of_an_unknown_architecture_is_refused(machine: str) -> None:
    with pytest.raises(NoSyscallFilter, match=machine or "this architecture"):
        syscall_filter(machine)
