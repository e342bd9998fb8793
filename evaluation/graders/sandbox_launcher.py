"""Runs one program inside namespaces and limits: the child side of `evaluation.graders.sandbox`.

A script of its own on the standard library alone, started as `python -I -S sandbox_launcher.py CONTROL_FD`. The file
behind that descriptor holds the plan as JSON, and in the end the report: the program's exit code, or why it wasn't
started. Three processes: this launcher, which outlives the rest and reaps it; the first process of the new pid
namespace, which builds the root file system; and the program. When the first process ends, the kernel ends everything
in its namespace.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

_NEW_NS, _NEW_UTS, _NEW_IPC = 0x20000, 0x4000000, 0x8000000
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_NAMESPACES = _NEW_NS | _NEW_UTS | _NEW_IPC | _NEW_PID | _NEW_NET

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_SECCOMP_MODE_FILTER, _INSTRUCTION_BYTES = 2, 8
# The same number on every architecture; Linux 5.12 and newer.
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 1

_NOBODY = 65534
_FIRST_FREE_ID = 0x10000000
_SYSTEM_DIRECTORIES = ("/usr", "/bin", "/lib", "/lib32", "/lib64")
# Not /dev/zero: mapped, it is memory that belongs to no process.
_DEVICES = ("/dev/null", "/dev/random", "/dev/urandom")
_WORK = "/sandbox"

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(_libc.mount(*arguments), f"mount {target}")


def _bind_read_only(source: str, root: str) -> None:
    target = Path(root + source)
    if os.path.isdir(source):
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(source, str(target), "", _MS_BIND | _MS_REC)
    attributes = _MountAttributes(attr_set=_MOUNT_ATTR_RDONLY)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    path = ctypes.c_char_p(str(target).encode())
    flags = ctypes.c_uint(_AT_RECURSIVE)
    result = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path, flags, ctypes.byref(attributes), size)
    _check(result, f"make {source} read-only")


def unshare() -> bool:
    """Leaves the namespaces of the starter.

    Returns:
        Whether this process is root outside as well, so that the program can get a user id of its own.
    """
    if os.geteuid() == 0 and _libc.unshare(_NAMESPACES) == 0:
        return True
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_NAMESPACES | _NEW_USER), "new user, pid, network and mount namespaces")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{_NOBODY} {group} 1")
    return False


def enter_root(root: str, prefixes: list[str], size: int) -> None:
    """Makes `root` a small file system of its own and enters it: what Python needs, read-only, and a work folder."""
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size},nr_inodes=4096,mode=755")
    seen: list[str] = []
    for source in (*_SYSTEM_DIRECTORIES, *_DEVICES, *sorted(prefixes)):
        if os.path.islink(source):
            os.symlink(os.readlink(source), root + source)
        elif os.path.exists(source) and not any(source.startswith(f"{known}/") for known in seen):
            _bind_read_only(source, root)
            seen.append(source)
    Path(root, "proc").mkdir()
    try:
        _mount("proc", f"{root}/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    except PermissionError:
        # Some containers forbid it; Python does without.
        Path(root, "proc").rmdir()
    os.chroot(root)
    os.mkdir(_WORK)
    os.chmod(_WORK, 0o777)


def limit(limits: dict[str, int]) -> None:
    """Sets the limits of this process and its children."""
    for name, value in {**limits, "CORE": 0}.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def filter_calls(code: bytes, missing: str) -> None:
    """Has the kernel deny system calls to this process and its children for good.

    Args:
        code: The filter, as `isolation.syscall_filter` makes it; empty where there is none.
        missing: Then the reason.
    """
    if not code:
        raise OSError(missing)
    program = _FilterProgram(len(code) // _INSTRUCTION_BYTES, code)
    result = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    _check(result, "a filter of system calls")


def run_program(plan: dict[str, Any], own_id: int | None) -> None:
    """Becomes the program; never returns."""
    os.umask(0o077)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    if own_id is not None:
        os.setgroups([])
        os.setresgid(own_id, own_id, own_id)
        os.setresuid(own_id, own_id, own_id)
    for name, content in plan["files"].items():
        # Half a surrogate pair is the program's own mistake.
        Path(name).write_text(content, encoding="utf-8", errors="surrogatepass")
    limit(plan["limits"])
    try:
        filter_calls(bytes.fromhex(plan["filter"]), plan["filter_missing"])
    except OSError:
        if plan["needs_filter"]:
            raise
    os.execve(plan["argv"][0], plan["argv"], plan["environ"])


def be_first_process(control: int, plan: dict[str, Any], is_root: bool) -> None:
    """Prepares the file system, starts the program and waits for it; never returns."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A user id of its own for each program: the kernel counts processes by user.
    own_id = _FIRST_FREE_ID + plan["number"] if is_root else None
    try:
        if plan["cgroup"]:
            Path(plan["cgroup"], "cgroup.procs").write_text("0")
        if plan["isolated"]:
            enter_root(plan["root"], plan["prefixes"], plan["disk_bytes"])
        os.chdir(_WORK if plan["isolated"] else plan["root"])
        program = os.fork()
        if program == 0:
            run_program(plan, own_id)
        while True:
            pid, status = os.wait()
            if pid == program:
                break
        report(control, {"exit_code": os.waitstatus_to_exitcode(status)})
    except OSError as error:
        report(control, {"unavailable": str(error)})
    finally:
        os._exit(0)


def report(control: int, content: dict[str, Any]) -> None:
    """Writes what happened, unless something was written before."""
    if os.fstat(control).st_size == 0:
        os.pwrite(control, json.dumps(content).encode(), 0)


def end_children(*_: object) -> None:
    """Kills what is left until nothing is left: orphans come to this process, which is their reaper. Then exits."""
    while True:
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            os._exit(0)


def main() -> None:
    """Runs the plan behind the descriptor that the command line names."""
    control = int(sys.argv[1])
    os.set_inheritable(control, False)
    plan = json.loads(os.pread(control, os.fstat(control).st_size, 0))
    os.ftruncate(control, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    is_root = False
    try:
        if plan["isolated"]:
            is_root = unshare()
        signal.signal(signal.SIGTERM, end_children)
        first = os.fork()
    except OSError as error:
        report(control, {"unavailable": str(error)})
        return
    if first == 0:
        be_first_process(control, plan, is_root)
    while os.wait()[0] != first:
        pass
    end_children()


if __name__ == "__main__":
    main()
