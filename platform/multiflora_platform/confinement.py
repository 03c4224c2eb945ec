"""What a process that reads foreign files may take, set by the process itself: memory, time, sizes; no network.

Knows nothing of what the process does. Nothing of it can be taken back.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Numbers of the system calls by machine: seccomp's own; then those that are refused: socket, connect, execve, execveat,
# ptrace, io_uring_setup (a ring opens sockets, too).
_CALLS = {
    "x86_64": (0xC000003E, 317, (41, 42, 59, 322, 101, 425)),
    "aarch64": (0xC00000B7, 277, (198, 203, 221, 281, 117, 425)),
}
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_LOAD, _IF_EQUAL, _IF_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _MACHINE_AT = 0, 4
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
# Calls of x86-64's second table begin here.
_SECOND_TABLE = 0x40000000

# What the interpreter reports before it opens a connection or starts a program.
_EVENTS = ("subprocess.", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "socket.")


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_not", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def confine(*, memory_bytes: int, seconds: int, file_bytes: int) -> None:
    """memory_bytes: beyond what the process has now. seconds: of processor time. file_bytes: of a file it writes."""
    limit_memory(memory_bytes)
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_FSIZE, file_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    refuse_network_and_programs()


def limit_memory(num_bytes: int) -> None:
    """Beyond what the process has now. Only where the system tells that."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + num_bytes)


def refuse_network_and_programs() -> None:
    """By Linux' seccomp, whatever code asks; where there is none, by the interpreter, for Python code alone."""
    if not _filter_calls():
        sys.addaudithook(_refuse)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _refuse(event: str, arguments: Sequence[Any]) -> None:
    if event.startswith(_EVENTS):
        raise PermissionError(errno.EPERM, f"{event} is refused: this process only converts files")


def _filter_calls() -> bool:
    """False where this system cannot."""
    if sys.platform != "linux" or platform.machine() not in _CALLS:
        return False
    machine, seccomp, refused = _CALLS[platform.machine()]
    checks = [(_IF_GREATER_EQUAL, _SECOND_TABLE), *((_IF_EQUAL, number) for number in refused)]
    last = 3 + len(checks) + 1  # where it is refused
    steps = [(_LOAD, 0, 0, _MACHINE_AT), (_IF_EQUAL, 0, last - 2, machine), (_LOAD, 0, 0, _NUMBER_AT)]
    steps += [(code, last - 4 - i, 0, value) for i, (code, value) in enumerate(checks)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    program = _Program(len(steps), (_Instruction * len(steps))(*(_Instruction(*step) for step in steps)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return bool(libc.syscall(seccomp, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)) == 0)
