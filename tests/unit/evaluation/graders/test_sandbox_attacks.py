"""Attacks on the sandbox, each really run: by memory that no process owns, out of the namespaces, into the kernel.

Every program ends with 1 and `Errno 1` where it is denied, and prints "through" where it isn't.
"""

import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from evaluation.graders.isolation.syscall_filter import denied_calls
from evaluation.graders.sandbox import Execution, Sandbox, SandboxLimits, SandboxUnavailable, _memory
from tests.unit.evaluation.graders.test_sandbox import Refusing, isolating

LIMITS = SandboxLimits(wall_s=30, cpu_s=20)
MACHINE = platform.machine()
on_x86_64 = pytest.mark.skipif(MACHINE != "x86_64", reason="machine code of x86_64")

CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(*arguments):
    result = libc.syscall(*(ctypes.c_long(argument) for argument in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""


def run(program: str, limits: SandboxLimits = LIMITS) -> Execution:
    return Sandbox(limits).run({"main.py": program}, "main.py")


def assert_denied(ended: Execution) -> None:
    assert (ended.ending, ended.exit_code, ended.stdout) == ("exited", 1, b""), ended
    assert b"[Errno 1]" in ended.stderr


def held_memory(segment: str) -> str:
    """17 pieces of 100 MB, none of them in any process's resident memory at the end."""
    return f"{CALL}\nimport time\nfor number in range(17):\n{segment}\nprint('through', flush=True)\ntime.sleep(60)"


MEMORY = {
    "SysV segments": held_memory(
        "    key = libc.shmget(0, 10**8, 0o1600)\n"
        "    if key < 0: raise OSError(ctypes.get_errno(), 'shmget')\n"
        "    libc.shmat.restype = ctypes.c_void_p\n"
        "    address = libc.shmat(key, None, 0)\n"
        "    ctypes.memset(address, 1, 10**8)\n"
        "    libc.shmdt(ctypes.c_void_p(address))"
    ),
    "memfds": held_memory("    os.truncate(fd := os.memfd_create('x'), 10**8)\n    os.write(fd, b'x' * 10**8)"),
    "shared mappings": held_memory(
        "    import mmap\n    area = mmap.mmap(-1, 10**8)\n    area.write(b'x' * 10**8)\n"
        "    area.madvise(mmap.MADV_DONTNEED)"
    ),
    "message queues": "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "if libc.msgget(0, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'msgget')\nprint('through')",
    "pages in pipes": f"{CALL}\nr, w = os.pipe()\nos.splice(os.open('main.py', 0), w, 10)\nprint('through')",
}


@isolating
@pytest.mark.parametrize("program", MEMORY.values(), ids=MEMORY)
def test_run_memory_that_no_process_owns_is_denied(program: str) -> None:
    assert_denied(run(program))


@isolating
def test_run_zero_device_that_maps_to_shared_memory_is_not_there() -> None:
    assert b"FileNotFoundError" in run("open('/dev/zero', 'r+b')").stderr


def test_memory_counts_page_tables() -> None:
    # Reading one page of every 2 MiB takes a table each, and no page.
    program = (
        "import mmap\n"
        "no_reserve = 0x4000\n"
        "area = mmap.mmap(-1, 2**34, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)\n"
        "area.madvise(mmap.MADV_NOHUGEPAGE)\n"
        "for at in range(0, len(area), 2**21): area[at]\n"
        "print('ready', flush=True)\ninput()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        resident = psutil.Process(process.pid).memory_info().rss
        assert _memory(process.pid) - resident > 2**24
        process.communicate(b"\n")


@isolating
def test_run_memory_in_socket_buffers_is_counted() -> None:
    program = (
        "import os, socket, time\n"
        "for _ in range(2): os.fork()\n"
        "pairs = [socket.socketpair() for _ in range(60)]\n"
        "time.sleep(60)"
    )
    assert run(program, SandboxLimits(wall_s=20, memory_bytes=2**27 - 2**24)).ending == "memory limit"


@isolating
def test_run_socket_of_any_family_is_denied() -> None:
    # Unix, inet, inet6, netlink, packet, alg, vsock and xdp among them.
    program = (
        "import socket\n"
        "for family in range(50):\n"
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):\n"
        "        try:\n            socket.socket(family, kind)\n            print('through', family)\n"
        "        except PermissionError:\n            pass\n"
        "print('tried')"
    )
    assert run(program).stdout == b"tried\n"


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[list[str]]:
    """Addresses of sockets that wait outside: one in a folder that anyone may enter, one abstract."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        addresses = [f"{folder}/socket", f"\0trivium-{os.getpid()}"]
        servers = []
        for address in addresses:
            server = socket.socket(socket.AF_UNIX)
            server.bind(address)
            server.listen()
            server.setblocking(False)
            servers.append(server)
        os.chmod(addresses[0], 0o777)
        yield addresses
        for server in servers:
            with pytest.raises(BlockingIOError):
                server.accept()
            server.close()


@pytest.mark.parametrize("isolated", [pytest.param(True, marks=isolating), False], ids=["isolated", "unisolated"])
def test_run_unix_sockets_outside_cant_be_reached(listening: list[str], isolated: bool) -> None:
    program = (
        "import socket\n"
        f"for address in {listening!r}:\n"
        "    for end in (lambda: socket.socket(socket.AF_UNIX), lambda: socket.socketpair()[0]):\n"
        "        try:\n            end().connect(address)\n            print('through')\n"
        "        except OSError as error:\n            print(error.errno)"
    )
    sandbox = Sandbox(LIMITS) if isolated else Refusing(LIMITS, allow_unisolated=True)
    assert sandbox.run({"main.py": program}, "main.py").stdout == b"1\n" * 4


@isolating
def test_run_calls_into_the_kernel_are_denied() -> None:
    calls = denied_calls(MACHINE)
    assert {"bpf", "io_uring_setup", "kexec_load", "keyctl", "mount", "ptrace", "userfaultfd"} <= set(calls)
    program = (
        f"{CALL}\n"
        f"for name, number in {calls!r}.items():\n"
        "    try:\n        call(number, 0, 0, 0, 0, 0, 0)\n        print('through', name)\n"
        "    except PermissionError:\n        pass\n"
        "    except OSError as error:\n        print(error, name)\n"
        "print('tried')"
    )
    assert run(program).stdout == b"tried\n"


@isolating
@on_x86_64
@pytest.mark.parametrize(
    "code",
    [b"\xb8\x14\x00\x00\x00\xcd\x80\xc3", b"\xb8\x27\x00\x00\x40\x0f\x05\xc3"],
    ids=["32-bit getpid", "x32 getpid"],
)
def test_run_call_of_another_architecture_is_killed(code: bytes) -> None:
    program = (
        "import ctypes, mmap\n"
        "area = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)\n"
        f"area.write({code!r})\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))()\n"
        "print('through')"
    )
    ended = run(program)
    assert (ended.exit_code, ended.stdout) == (-31, b"")


@isolating
def test_run_descriptors_and_files_of_the_parent_are_not_there() -> None:
    ended = run(
        "import os\n"
        "print([fd for fd in range(3, 1024) if os.path.exists(f'/proc/self/fd/{fd}')])\n"
        "for pid in (os.getppid(), 1):\n"
        "    for name in ('mem', 'environ', 'root/etc/passwd', 'cwd/', 'fd/0'):\n"
        "        try:\n            open(f'/proc/{pid}/{name}')\n            print('through', name)\n"
        "        except OSError:\n            pass\n"
        "print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()) == [1, os.getpid()]"
        " if os.path.exists('/proc') else True)"
    )
    assert ended.stdout == b"[]\nTrue\n"


@isolating
def test_run_signals_reach_nobody_outside() -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        ended = run(
            "import os\n"
            f"for pid in ({bystander.pid}, {os.getpid()}, -{os.getpgid(0)}, 1, -1):\n"
            "    try:\n        os.kill(pid, 9)\n    except OSError:\n        pass\n"
            "print('on')"
        )
        assert bystander.poll() is None
        bystander.kill()
    assert ended.stdout == b"on\n"


@isolating
@pytest.mark.parametrize(
    "place", ["/", "/usr", "/proc", "/dev", "..", sys.prefix, sys.base_prefix, "/tmp", "/dev/shm"]
)
def test_run_writing_outside_of_the_work_folder_fails(place: str) -> None:
    limits = SandboxLimits(wall_s=30, disk_bytes=2**22)
    ended = run(f"open({place!r} + '/planted', 'w').write('x')\nprint('through')", limits)
    if ended.exit_code == 0:
        # Where this process isn't root, the sandbox's own root belongs to the program; it goes with it.
        assert place in ("/", "..")
    assert not Path(place, "planted").exists()


@isolating
@pytest.mark.parametrize(
    "program",
    [
        "for number in range(100):\n    open(str(number), 'wb').write(b'x' * 2**20)",
        "for number in range(10**5):\n    open(str(number), 'w')",
        "import os\nfor number in range(100):\n    fd = os.open(f'{number}', os.O_RDWR | os.O_CREAT)\n"
        "    os.unlink(str(number))\n    os.posix_fallocate(fd, 0, 2**20)",
        "import os\nfor number in range(100):\n"
        "    os.posix_fallocate(os.open('.', os.O_TMPFILE | os.O_RDWR), 0, 2**20)",
        "import os\nos.truncate(1, 2**40)",
    ],
    ids=["many files", "many names", "unlinked files", "nameless files", "output"],
)
def test_run_filling_the_disk_fails(program: str) -> None:
    ended = run(program + "\nprint('through')")
    assert (ended.exit_code, ended.stdout) == (1, b"")
    assert b"No space left" in ended.stderr or b"File too large" in ended.stderr


@isolating
@pytest.mark.parametrize("program", ["print('\ud800')", "\0", "\udcff = 1"], ids=["surrogate", "nul", "bad byte"])
def test_run_text_that_is_no_program_is_an_exit_code(program: str) -> None:
    ended = run(program)
    assert (ended.ending, ended.exit_code) == ("exited", 1)
    assert b"SyntaxError" in ended.stderr


@isolating
def test_run_threads_up_to_the_documented_number_start() -> None:
    # Each takes memory of its own, for which glibc would reserve 64 MiB of address space.
    num_threads = SandboxLimits().num_processes - 1
    program = (
        "import threading\n"
        f"start = threading.Barrier({num_threads + 1})\n"
        "def work():\n    kept = [bytes(1000) for _ in range(1000)]\n    start.wait(20)\n"
        f"threads = [threading.Thread(target=work) for _ in range({num_threads})]\n"
        "for thread in threads: thread.start()\n"
        "start.wait(20)\n"
        "for thread in threads: thread.join()\n"
        "print(len(threads))"
    )
    assert run(program).stdout == b"%d\n" % num_threads


@isolating
def test_run_threads_without_end_fail() -> None:
    program = "import threading\nwhile True: threading.Thread(target=threading.Event().wait, daemon=True).start()"
    ended = run(program)
    assert ended.exit_code == 1
    assert b"can't start new thread" in ended.stderr


@isolating
def test_run_ordinary_ways_to_work_at_once_stay_possible() -> None:
    program = (
        "import asyncio, subprocess, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "async def add(): return await asyncio.to_thread(sum, [1, 2])\n"
        "print(asyncio.run(add()))\n"
        "print(sum(ThreadPoolExecutor(8).map(abs, range(10))))\n"
        "print(subprocess.run([sys.executable, '-c', 'print(7)'], capture_output=True, text=True).stdout)\n"
    )
    assert run(program).stdout == b"3\n45\n7\n\n"


@isolating
@pytest.mark.parametrize("program", ["open('left', 'w')", "open('left', 'w')\nwhile True: pass"])
def test_run_leaves_no_files_behind(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run(program, SandboxLimits(wall_s=1))
    assert list(tmp_path.iterdir()) == []


class Unfiltered(Sandbox):
    """On an architecture without a filter."""

    def _plan(self, *arguments: object) -> dict[str, object]:
        plan = super()._plan(*arguments)  # type: ignore[arg-type]
        return {**plan, "filter": "", "filter_missing": "no system call filter for riscv64"}


def test_run_without_a_filter_is_refused_by_name() -> None:
    with pytest.raises(
        SandboxUnavailable, match=r"can't be isolated here.*no system call filter for riscv64.*nothing"
    ):
        Unfiltered(LIMITS).run({"main.py": ""}, "main.py")


def test_run_without_a_filter_runs_where_a_person_insists() -> None:
    sandbox = Unfiltered(LIMITS, allow_unisolated=True)
    assert sandbox.run({"main.py": "print(1)"}, "main.py").stdout == b"1\n"
