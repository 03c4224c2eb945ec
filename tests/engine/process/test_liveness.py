"""Work, sleep and what cannot be told of a process."""

from __future__ import annotations

import os
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
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_sleeping_process_was_last_at_work_when_it_was_first_seen() -> None:
    with _process("import time; print(flush=True); time.sleep(60)") as pid:
        while psutil.Process(pid).status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)
        meter = WorkMeter(pid)
        first = meter.worked_at
        time.sleep(0.3)
        assert meter.look() == first


def test_a_computing_process_is_at_work() -> None:
    meter = WorkMeter(os.getpid())
    first = meter.worked_at
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert meter.look() > first


def test_of_a_process_that_cannot_be_read_patience_alone_decides() -> None:
    meter = WorkMeter(2**22 + 1)
    first = meter.worked_at
    time.sleep(0.01)
    assert meter.look() > first
