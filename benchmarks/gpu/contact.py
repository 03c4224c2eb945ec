"""The first contact with a GPU, in calls of under ten minutes: `make gpu-contact`.

    python -m gpu.contact [--output FOLDER] [--seconds 540] [--only PART …] [--again]

Each part (see catalogue.py) runs in a process of its own with a time limit of its own, so that none costs another: what
fails costs one row. Rows go to FOLDER/contact.jsonl as they are found; a second call goes on where the first one ended.
Nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gpu.catalogue import PARTS, Part
from gpu.journal import Journal
from gpu.kernel_cache import PACKED, entries, own_cache, settle
from gpu.report import print_report

START = "(start)"
"""The case that fails where a part's process ends before it begins one."""

_LEAST_SECONDS = 10.0
"""Less is not worth a process."""

_LAST_LINES = 20

Run = Callable[[Part, float], tuple[int | None, str]]
"""Runs a part for so many seconds at most: its exit status, None if it had to be ended, and what it said last."""


class Contact:
    """Works through the parts until `seconds` are over."""

    def __init__(self, journal: Journal, run: Run, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._run = run
        self._clock = clock
        self._deadline = clock() + seconds

    def work(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if part.missing:
                print(f"{part.name}: LEFT OUT: this Python lacks {', '.join(part.missing)}.", flush=True)
            else:
                self._part(part)

    def _part(self, part: Part) -> None:
        end = min(self._deadline, self._clock() + part.seconds)
        while (left := end - self._clock()) >= _LEAST_SECONDS:
            ended = len(self._journal.ended(part.name))
            status, words = self._run(part, left)
            if status == 0 or status is None:
                return
            self._write_down(part, status, words)
            if len(self._journal.ended(part.name)) == ended:
                return

    def _write_down(self, part: Part, status: int, words: str) -> None:
        """A process that ended by itself, and not well, names the case that it was at."""
        case = self._journal.under_way(part.name)
        if case is not None:
            error = f"{_reason(status)}\n{words}".strip()
            self._journal.failed(part.name, case["case"], time.time() - case["began"], error)
        elif not self._journal.ended(part.name):
            self._journal.failed(part.name, START, 0.0, f"{_reason(status)}\n{words}".strip())


def _reason(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def process(journal: Path, log: Path, rehearses: bool) -> Run:
    """Parts as `gpu.process`; what they say on standard error goes to the log."""

    def run(part: Part, seconds: float) -> tuple[int | None, str]:
        command = [sys.executable, "-P", "-m", "gpu.process", part.name, part.module, str(journal)]
        command += ["--seconds", str(seconds - _LEAST_SECONDS / 2), *(["--rehearse"] if rehearses else [])]
        before = log.stat().st_size if log.exists() else 0
        with log.open("ab") as errors:
            child = subprocess.Popen(command, stderr=errors, start_new_session=True)
            try:
                status: int | None = child.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        said = log.read_bytes()[before:].decode(errors="replace").splitlines()
        return status, "\n".join(said[-_LAST_LINES:])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = [part.name for part in PARTS]
    parser.add_argument("--output", type=Path, default=Path("gpu-contact"), help="a folder")
    parser.add_argument("--seconds", type=float, default=540.0, help="for everything")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--again", action="store_true", help="try what has failed once more")
    parser.add_argument("--rehearse", action="store_true", help="on a card that is not there; times mean nothing")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if part.name in arguments.only]
    if arguments.rehearse:
        # Nothing hangs there, and what compiles for the first time takes its time.
        parts = [replace(part, seconds=arguments.seconds) for part in parts]
    cache = own_cache()
    settled = 0 if arguments.rehearse else settle(PACKED, cache)
    compiled = entries(cache)
    path = arguments.output / "contact.jsonl"
    journal = Journal(path)
    if arguments.again:
        journal.try_failed_again()
    contact = Contact(journal, process(path, arguments.output / "contact.log", arguments.rehearse), arguments.seconds)
    contact.work(parts)
    print_report(journal, parts)
    print(f"compiled kernels: {settled} came along, {entries(cache) - compiled} were compiled here")


if __name__ == "__main__":
    main()
