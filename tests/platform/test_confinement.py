"""A process that has confined itself: what it may take, and what it cannot reach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TRIES = """
import os, socket, subprocess, sys
from multiflora_platform import confinement
if sys.argv[1] == "elsewhere":
    confinement._filter_calls = lambda: False
confinement.confine(memory_bytes=64 << 20, seconds=5, file_bytes=1 << 20)
for name, attempt in {
    "small": lambda: bytearray(1 << 20),
    "memory": lambda: bytearray(100 << 20),
    "file": lambda: [open("large", "ab", buffering=0).write(bytes(1 << 19)) for _ in range(3)],
    "connection": lambda: socket.create_connection(("127.0.0.1", 9)),
    "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "program": lambda: subprocess.run(["true"]),
    "replaced": lambda: os.execv("/bin/true", ["true"]),
}.items():
    try:
        attempt()
        print(name, "done")
    except Exception as error:
        print(name, type(error).__name__)
"""


@pytest.mark.parametrize("system", ["here", "elsewhere"])
def test_what_a_confined_process_may_take(system: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRIES, system]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told == [
        "small done",
        "memory MemoryError",
        "file OSError",
        *(f"{name} PermissionError" for name in ("connection", "datagram", "program", "replaced")),
    ]


def test_processor_time_ends_it() -> None:
    code = "from multiflora_platform.confinement import confine\n"
    code += "confine(memory_bytes=1 << 28, seconds=1, file_bytes=1)\nwhile True: pass"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode < 0


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux'")
def test_linux_refuses_whatever_code_asks() -> None:
    """Not the interpreter alone: what calls the kernel itself is refused, too."""
    code = "import ctypes, errno\nfrom multiflora_platform.confinement import confine\n"
    code += "confine(memory_bytes=1 << 28, seconds=5, file_bytes=1)\n"
    code += "libc = ctypes.CDLL(None, use_errno=True)\nprint(libc.socket(2, 1, 0), ctypes.get_errno() == errno.EPERM)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["-1", "True"]
