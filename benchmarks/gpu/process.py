"""One part of the first contact, in a process of its own: `python -m gpu.process PART JOURNAL`.

Each case that the journal does not know is run and written down at once. A case that fails costs its row. One that
hangs ends the process, with all threads' stacks on standard error; so does one that leaves the device unusable, for
then every call that follows would fail.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import importlib
import sys
import time
import traceback
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from gpu.case import Case, Cases, Setting
from gpu.journal import Journal

DEVICE_LOST = 3
"""The exit status where the device takes no more work from this process."""

_LEAST_SECONDS = 3.0
_ERROR_LINES = 12
_REHEARSED_LAYERS = 2
"""All layers launch the same kernels."""


def run(part: str, cases: Cases, setting: Setting, journal: Journal, seconds: float, *, watches: bool = True) -> int:
    """The exit status. seconds: for all cases; what is not begun by then is left to the next process. watches: whether
    a case that hangs ends the process."""
    deadline = time.monotonic() + seconds
    ended = journal.ended(part)
    for case in cases(setting):
        if case.name in ended:
            continue
        if deadline - time.monotonic() < _LEAST_SECONDS:
            return 0
        journal.began(part, case.name)
        is_well = _run_case(part, case, journal, watches)
        _clean_up()
        if not is_well and not _device_works():
            return DEVICE_LOST
    return 0


def _run_case(part: str, case: Case, journal: Journal, watches: bool) -> bool:
    began = time.perf_counter()
    if watches:
        faulthandler.dump_traceback_later(case.seconds, exit=True)
    try:
        row = case.run()
    except Exception:
        error = traceback.format_exc().splitlines()
        print(f"{part}: {case.name}: FAILED: {error[-1]}", flush=True)
        journal.failed(part, case.name, time.perf_counter() - began, "\n".join(error[-_ERROR_LINES:]))
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    journal.done(part, case.name, time.perf_counter() - began, row)
    print(f"{part}: {case.name}: {_short(row)}", flush=True)
    return True


def _short(row: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items() if not isinstance(value, list | dict))


def _clean_up() -> None:
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        # After an error that sticks, this says so once more.
        try:
            torch.cuda.empty_cache()
        except RuntimeError:
            return


def _device_works() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.zeros(1, device="cuda").item()
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _limits(journal: Journal) -> tuple[float, float] | None:
    row = journal.ended("device").get("limits", {})
    return (row["bandwidth"], row["arithmetic"]) if "bandwidth" in row else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part")
    parser.add_argument("module", help="where the part's cases are")
    parser.add_argument("journal", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rehearse", action="store_true", help="on a card that is not there; times mean nothing")
    arguments = parser.parse_args()
    journal = Journal(arguments.journal)
    setting = Setting(known_limits=_limits(journal))
    with ExitStack() as stack:
        if arguments.rehearse:
            from gpu.fake.card import fake_card

            stack.enter_context(fake_card())
            setting = replace(setting, layers=_REHEARSED_LAYERS)
        cases = importlib.import_module(arguments.module).cases
        watches = not arguments.rehearse
        status = run(arguments.part, cases, setting, journal, arguments.seconds, watches=watches)
    sys.exit(status)


if __name__ == "__main__":
    main()
