"""Each kind of profile sees what another thread does: its stacks, its operations, and the memory that it keeps."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.profiler import profile

from multiflora_engine.profiling.memory_growth import record_memory
from multiflora_engine.profiling.stacks import _stack, record_stacks
from multiflora_engine.profiling.torch_trace import record_torch

SECONDS = 0.3


@contextmanager
def working(work: Callable[[], object]) -> Iterator[None]:
    """A thread named worker does this over and over, and has begun."""
    done, begun = threading.Event(), threading.Event()

    def loop() -> None:
        while not done.wait(0.001):
            work()
            begun.set()

    thread = threading.Thread(target=loop, name="worker")
    thread.start()
    assert begun.wait(30)
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_stacks_tell_where_a_thread_is() -> None:
    waiting = threading.Event()

    def waits_here() -> None:
        waiting.wait(0.05)

    with working(waits_here):
        lines = record_stacks(SECONDS).decode().splitlines()
    counts = {stack: int(count) for stack, count in (line.rsplit(" ", 1) for line in lines)}
    inside = [stack for stack in counts if stack.startswith("worker;") and "waits_here" in stack]
    assert inside, lines
    assert "profiling/test_kinds.py" in inside[0]
    assert not any("record_stacks" in stack for stack in counts), "not the recorder itself"


def test_equal_code_of_two_files_is_told_apart() -> None:
    """And that of one file is one function, however often it is loaded."""
    shown: list[str] = []
    names: dict[tuple[str, str], str] = {}
    for file in ("one/file.py", "another/file.py", "one/file.py"):
        loaded: dict[str, Any] = {"sys": sys}
        exec(compile("def here():\n    return sys._getframe()", file, "exec"), loaded)
        shown.append(_stack(loaded["here"](), names).rsplit(";", 1)[-1])
    assert shown == ["here (one/file.py)", "here (another/file.py)", "here (one/file.py)"]


def test_memory_that_a_thread_keeps_is_put_down_to_its_line() -> None:
    kept: list[bytearray] = []

    def keeps() -> None:
        if len(kept) < 20_000:
            kept.append(bytearray(4096))

    with working(keeps):
        report = record_memory(SECONDS).decode().splitlines()
    first = next(number for number, line in enumerate(report) if line.startswith("The 25 places"))
    assert report[first + 1].startswith("+")
    *_, innermost = itertools.takewhile(lambda line: line.startswith(" "), report[first + 2 :])
    file, number = innermost.strip().rsplit(":", 1)
    assert file == __file__
    assert "kept.append" in Path(__file__).read_text(encoding="utf-8").splitlines()[int(number) - 1]


def test_operations_of_another_thread_are_in_the_trace() -> None:
    a = torch.ones(3, 5)
    with working(lambda: a @ a.T):
        trace = json.loads(gzip.decompress(record_torch(SECONDS)))
    names = {event["name"] for event in trace["traceEvents"] if event.get("cat") == "cpu_op"}
    assert "aten::mm" in names


@pytest.mark.parametrize("written", [None, '{"traceEvents": [{"name": "aten::'])
def test_no_room_for_the_trace_is_an_error(monkeypatch: pytest.MonkeyPatch, written: str | None) -> None:
    """Of a disk that is full Kineto says nothing to its caller: it leaves no file, or half of one."""

    def export(recorded: profile, path: str) -> None:
        if written is not None:
            Path(path).write_text(written, encoding="utf-8")

    monkeypatch.setattr(profile, "export_chrome_trace", export)
    with pytest.raises(OSError, match="no room in"):
        record_torch(0.01)
