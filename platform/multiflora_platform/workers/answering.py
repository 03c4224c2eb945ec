"""The worker's end: outlives the signals that are meant for its server, answers lines, each within bounds of time."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


def leave_signals_to_the_server() -> None:
    """Ctrl-C reaches the whole terminal, a service manager's SIGTERM all of a service; the server decides when its
    workers end, and with it their input does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def answer_lines(answer: Callable[[bytes], bytes], timer: int, seconds: float) -> None:
    """Each line of the standard input by one on the standard output, until the input ends. answer: without a newline.

    timer: ITIMER_PROF for processor time, ITIMER_REAL; by the default action of its signal a line that takes longer
    ends the process, whatever code is running.
    """
    for line in sys.stdin.buffer:
        signal.setitimer(timer, seconds)
        answered = answer(line)
        signal.setitimer(timer, 0)
        write_line(answered)


def write_line(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
