"""Work, sleep and what cannot be told of a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from multiflora_engine.process.liveness import WorkMeter

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


@contextmanager
def _process(code: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _until_asleep(pid: int) -> None:
    while psutil.Process(pid).status() != psutil.STATUS_SLEEPING:
        time.sleep(0.01)


def test_a_sleeping_process_was_last_at_work_when_it_was_known_to_be() -> None:
    with _process("import time; print(flush=True); time.sleep(60)") as pid:
        _until_asleep(pid)
        meter = WorkMeter(pid, 7.0)
        time.sleep(0.3)
        assert meter.look() == 7.0


def test_a_computing_process_is_at_work() -> None:
    meter, first = WorkMeter(os.getpid(), 7.0), time.monotonic()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert meter.look() > first


def test_a_process_that_waits_for_its_compiler_is_at_work() -> None:
    busy = "print(flush=True)\nwhile True: pass"
    with _process(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])") as pid:
        _until_asleep(pid)
        own = psutil.Process(pid).cpu_times()[:2]
        meter = WorkMeter(pid, 7.0)
        while meter.look() == 7.0:
            time.sleep(0.05)
        assert psutil.Process(pid).cpu_times()[:2] == own


def test_of_a_process_that_cannot_be_read_patience_alone_decides() -> None:
    meter = WorkMeter(2**22 + 1, 7.0)
    assert meter.look() > 7.0
