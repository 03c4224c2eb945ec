"""One profile at a time, on a thread of its own; what goes wrong with it is told and ends nothing."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from multiflora_engine.profiling import profiler
from multiflora_engine.profiling.profiler import AlreadyRecording, Profiler, Recording


def end_of(running: Profiler) -> Recording:
    while (profile := running.take()) is None:
        time.sleep(0.001)
    return profile


def test_one_at_a_time_and_the_next_when_it_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()

    def record(seconds: float) -> bytes:
        assert may_end.wait(30)
        return b"%d" % seconds

    monkeypatch.setitem(profiler._RECORDERS, "python", record)
    one = Profiler()
    one.start("python", 3)
    assert one.take() is None
    with pytest.raises(AlreadyRecording):
        one.start("python", 4)
    may_end.set()
    assert end_of(one) == Recording(b"3")
    assert one.take() is None
    one.start("python", 5)
    assert end_of(one) == Recording(b"5")


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "could not be written: No space left on device"),
        (MemoryError("of the device"), "failed: MemoryError: of the device"),
    ],
)
def test_what_goes_wrong_is_told(monkeypatch: pytest.MonkeyPatch, problem: Exception, said: str) -> None:
    def record(seconds: float) -> bytes:
        raise problem

    monkeypatch.setitem(profiler._RECORDERS, "torch", record)
    one = Profiler()
    for _ in range(2):
        one.start("torch", 1)
        error = end_of(one).error
        assert error is not None
        assert said in error


def test_a_trace_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "MAX_BYTES", 10)
    monkeypatch.setitem(profiler._RECORDERS, "torch", lambda seconds: bytes(11))
    one = Profiler()
    one.start("torch", 1)
    profile = end_of(one)
    assert (profile.trace, profile.error) == (
        b"",
        "The trace has 11 bytes, 10 at most are kept; record fewer seconds.",
    )
