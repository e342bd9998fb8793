"""Runs untrusted Python programs: each alone in namespaces of its own, under limits, with nothing of this machine.

A program sees a file system with the Python installation, read-only, and a small empty work folder that goes with it;
no network, no other process, no environment, a user id of its own where this process is root. A filter of system
calls (`isolation.syscall_filter`) denies what reaches further: sockets of every family, tracing, mounts, io_uring,
keys, and memory that belongs to no process. Time, memory, output, disk and number of processes are limited, and
everything that it started is ended with it.

Memory is counted by a memory cgroup where one can be made (`isolation.memory_cgroup`). Elsewhere it is summed up ten
times a second: what is resident, swapped or in page tables, for each process (pages that several share count for
each), and what connected sockets may hold; in between, each process is held by its address space alone.

Where the kernel refuses namespaces (most containers without `--privileged`, Linux before 5.12, other systems) or the
filter (architectures other than x86_64 and aarch64), a program isn't run at all, unless `allow_unisolated` is set.
Then time, memory, output and number of processes are still limited, and what the filter denies is denied where there
is one; but the program can read and write what this user can, send signals to this user's processes, and without the
filter reach the network. `sandbox_check` tells what a machine offers.

Not a defence against an attacker with an exploit of the kernel.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from evaluation.graders.isolation.memory_cgroup import MemoryCgroup, NoMemoryCgroup, created, parent_cgroup
from evaluation.graders.isolation.syscall_filter import NoSyscallFilter, syscall_filter

_LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
# The limit of address space counts what is reserved: one thread for each numerical library, and one heap for all
# threads, where glibc would reserve 64 MiB for each.
_ENVIRON = {"LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
# Beside the program's own: the launcher, the first process, and one that shows that there are too many.
_EXTRA_PROCESSES = 3
# What the kernel lets a sender have on its way.
_SOCKET_BYTES = 2**18
_WATCH_INTERVAL_S = 0.1
_END_TIMEOUT_S = 10.0
_numbers = itertools.count()

Ending = Literal["exited", "time limit", "memory limit", "output limit", "process limit"]


class SandboxUnavailable(RuntimeError):
    """Programs can't be isolated here. The message says what is missing."""


@dataclass(frozen=True)
class SandboxLimits:
    """What one program may use.

    Attributes:
        wall_s: Seconds from start to end.
        cpu_s: Seconds of CPU time of each process.
        memory_bytes: Address space of each process, and memory of all of them together, files included where a cgroup
            counts it.
        output_bytes: Length of stdout, of stderr, and of each file written.
        disk_bytes: All files of the work folder.
        num_processes: Processes and threads at a time.
    """

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_bytes: int = 2**30
    output_bytes: int = 2**22
    disk_bytes: int = 2**25
    num_processes: int = 32


@dataclass(frozen=True)
class Execution:
    """How a program ended.

    Attributes:
        ending: "exited", or the limit that it ran into.
        exit_code: Of an exited program; negative for a signal. None where it was ended.
        stdout: What it wrote, cut at the limit.
        stderr: Likewise.
        wall_s: Seconds that it took, start included.
    """

    ending: Ending
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    wall_s: float


@dataclass(frozen=True)
class Sandbox:
    """Runs programs under the same limits. Safe to use from several threads.

    Attributes:
        limits: What each program may use.
        allow_unisolated: Run programs even where they can't be isolated.
    """

    limits: SandboxLimits = SandboxLimits()
    allow_unisolated: bool = False

    def run(self, files: Mapping[str, str], main: str, stdin: str = "") -> Execution:
        """Runs a Python program.

        Args:
            files: Text by file name, put into the work folder.
            main: Name of the file to run.
            stdin: What it can read.

        Returns:
            How it ended; a program that misbehaves is no error.

        Raises:
            SandboxUnavailable: It can't be isolated here, and `allow_unisolated` isn't set.
        """
        try:
            return self._run(files, main, stdin, isolated=True)
        except SandboxUnavailable as error:
            if not self.allow_unisolated:
                raise SandboxUnavailable(f"programs can't be isolated here: {error}; nothing was run") from error
            return self._run(files, main, stdin, isolated=False)

    def try_parts(self, *, isolated: bool, filtered: bool) -> None:
        """Runs an empty program with some parts of the isolation alone.

        Args:
            isolated: In namespaces of its own.
            filtered: Under the filter of system calls.

        Raises:
            SandboxUnavailable: One of these isn't there.
        """
        self._run({"main.py": ""}, "main.py", "", isolated=isolated, filtered=filtered)

    def _run(
        self, files: Mapping[str, str], main: str, stdin: str, *, isolated: bool, filtered: bool | None = None
    ) -> Execution:
        filtered = isolated if filtered is None else filtered
        with (
            tempfile.TemporaryDirectory(prefix="trivium-sandbox-") as root,
            tempfile.TemporaryFile() as control,
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
            self._cgroup() as cgroup,
        ):
            given.write(stdin.encode(errors="surrogatepass"))
            given.seek(0)
            plan = self._plan(files, main, root, isolated)
            plan |= {"cgroup": str(cgroup.path) if cgroup else None, "needs_filter": filtered}
            control.write(json.dumps(plan).encode())
            control.flush()
            started = time.monotonic()
            launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(control.fileno())],
                stdin=given,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(control.fileno(),),
                cwd="/",
                env={},
                start_new_session=True,
            )
            try:
                ending = self._watch(launcher, started + self.limits.wall_s, counts_memory=cgroup is None)
            finally:
                _end(launcher)
            if cgroup is not None and cgroup.was_exhausted:
                ending = "memory limit"
            report = _report(control, stderr)
            if ending == "exited" and "unavailable" in report:
                raise SandboxUnavailable(report["unavailable"])
            return self._execution(ending, report.get("exit_code"), stdout, stderr, time.monotonic() - started)

    @contextlib.contextmanager
    def _cgroup(self) -> Iterator[MemoryCgroup | None]:
        try:
            parent = parent_cgroup()
        except NoMemoryCgroup:
            yield None
            return
        with created(parent, self.limits.memory_bytes, self.limits.num_processes + _EXTRA_PROCESSES) as cgroup:
            yield cgroup

    def _plan(self, files: Mapping[str, str], main: str, root: str, isolated: bool) -> dict[str, Any]:
        limits = self.limits
        kernel_limits = {"CPU": limits.cpu_s, "AS": limits.memory_bytes, "FSIZE": limits.output_bytes, "NOFILE": 128}
        if isolated:
            # Counted by user, and in a user namespace the launcher and the first process count too. It holds a fork
            # bomb just above the limit, where `_watch` finds it.
            kernel_limits["NPROC"] = limits.num_processes + _EXTRA_PROCESSES
        filter_code, filter_missing = b"", ""
        try:
            filter_code = syscall_filter(platform.machine())
        except NoSyscallFilter as error:
            filter_missing = str(error)
        return {
            "isolated": isolated,
            "filter": filter_code.hex(),
            "filter_missing": filter_missing,
            "number": os.getpid() * 1000 % 2**27 + next(_numbers) % 1000,
            "root": root,
            "prefixes": sorted({sys.prefix, sys.base_prefix}),
            "disk_bytes": limits.disk_bytes,
            "files": dict(files),
            "argv": [sys.executable, "-I", "-X", "utf8", main],
            "environ": _ENVIRON,
            "limits": kernel_limits,
        }

    def _watch(self, launcher: subprocess.Popen[bytes], deadline: float, *, counts_memory: bool) -> Ending:
        """Waits for the end, at most until the deadline; sums up what all processes use together meanwhile."""
        while time.monotonic() < deadline:
            try:
                launcher.wait(min(_WATCH_INTERVAL_S, max(deadline - time.monotonic(), 0)))
            except subprocess.TimeoutExpired:
                num_processes, num_bytes = _usage(launcher.pid)
                # The first one is the launcher's.
                if num_processes - 1 > self.limits.num_processes:
                    return "process limit"
                if counts_memory and num_bytes > self.limits.memory_bytes:
                    return "memory limit"
            else:
                return "exited"
        return "time limit"

    def _execution(
        self, ending: Ending, exit_code: int | None, stdout: IO[bytes], stderr: IO[bytes], wall_s: float
    ) -> Execution:
        out, err = (_content(file, self.limits.output_bytes) for file in (stdout, stderr))
        if ending == "exited" and max(len(out), len(err)) >= self.limits.output_bytes:
            ending = "output limit"
        # The kernel's own limit of CPU time ends a process with one of these.
        if ending == "exited" and exit_code in (-9, -24):
            ending = "time limit"
        return Execution(ending, exit_code if ending == "exited" else None, out, err, wall_s)


def _usage(pid: int) -> tuple[int, int]:
    """Number of processes below a process, and bytes of memory that they use."""
    try:
        processes = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0, 0
    num_bytes = sum(_memory(process.pid) for process in processes) + _num_sockets(pid) * _SOCKET_BYTES
    return len(processes), num_bytes


def _memory(pid: int) -> int:
    """Bytes that one process holds, page tables and swap included; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    kibibytes = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines) if rest.strip()}
    return sum(int(kibibytes.get(name, 0)) for name in ("VmRSS", "VmSwap", "VmPTE")) * 1024


def _num_sockets(pid: int) -> int:
    """Number of Unix sockets in the network namespace of a process, unless it is this process's own."""
    try:
        if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return 0
        return len(Path(f"/proc/{pid}/net/unix").read_text().splitlines()) - 1
    except OSError:
        return 0


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """Has the launcher end everything that it started, and waits until that is done."""
    if launcher.poll() is not None:
        return
    launcher.terminate()
    try:
        launcher.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, 9)
        launcher.wait()


def _report(control: IO[bytes], stderr: IO[bytes]) -> dict[str, Any]:
    control.seek(0)
    content = control.read()
    if content.startswith(b'{"isolated"'):
        return {"unavailable": f"the launcher didn't start: {_content(stderr, 2000).decode(errors='replace')}"}
    report: dict[str, Any] = json.loads(content) if content else {}
    return report


def _content(file: IO[bytes], num_bytes: int) -> bytes:
    file.seek(0)
    return file.read(num_bytes)
