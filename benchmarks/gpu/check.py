"""The tests that need a GPU, on one: `make gpu-check`. With whatever that machine's Python has, in under ten minutes.

    python -m gpu.check [--output FOLDER] [--seconds 540] [-- PYTEST ARGUMENTS]

Parity and attention come first, then the other kernels, then the rest of the engine. After an error that sticks, all
that the same process tests later fails, too: so each test that failed runs once more, alone and with launches that
wait, and what it says then is in FOLDER/check-again.log.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from gpu.catalogue import ENGINE
from gpu.kernel_cache import PACKED, own_cache, settle

_ON_GPU = re.compile(r"mark\.gpu|mark\.kernel|kernel_device")
_FIRST = ("tests/engine/parity", "tests/kernels/attention")
_ENGINE_NEEDS = (*ENGINE, "transformers", "peft")
_PLUGINS = {"xdist": "xdist.plugin", "pytest_timeout": "pytest_timeout", "hypothesis": "_hypothesis_pytestplugin"}
_PROCESSES = 8
_TEST_SECONDS, _ALONE_SECONDS = 180, 90
_GRACE = 15.0
"""Seconds that pytest has to write its report when its time is over."""

_SOME_FAILED, _NOTHING_CHOSEN = 1, 5
"""pytest's status; the second where a stage has no test of those that are asked for."""

_ENDINGS = {0: "passed", _SOME_FAILED: "done", _NOTHING_CHOSEN: "nothing to test", None: "cut off"}


@dataclass(frozen=True)
class Stage:
    """Files whose tests run together."""

    name: str
    files: list[str]


def stages(root: Path) -> list[Stage]:
    """Those that this Python can run; says which it cannot."""
    files = [
        str(path.relative_to(root))
        for path in sorted((root / "tests").rglob("test_*.py"))
        if path.is_relative_to(root / "tests/kernels") or path.is_relative_to(root / "tests/engine")
        if _ON_GPU.search(path.read_text(encoding="utf-8"))
    ]
    if missing := [name for name in _ENGINE_NEEDS if find_spec(name) is None]:
        print(f"The engine's tests are LEFT OUT: this Python lacks {', '.join(missing)}.", flush=True)
        files = [file for file in files if not file.startswith("tests/engine")]
    first = [file for file in files if file.startswith(_FIRST)]
    rest = [file for file in files if file not in first]
    kernels = [file for file in rest if file.startswith("tests/kernels")]
    found = [Stage("first", first), Stage("kernels", kernels), Stage("engine", [f for f in rest if f not in kernels])]
    return [stage for stage in found if stage.files]


def command(processes: int, seconds: int, junit: Path) -> list[str]:
    """pytest with what of its plugins is there. Warnings are none of this machine's business."""
    found = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu or kernel"]
    found += ["-o", "addopts=-q --strict-markers --import-mode=importlib", "-o", "filterwarnings=default"]
    found += ["-o", "junit_family=xunit1", f"--junitxml={junit}"]
    present = [name for name in _PLUGINS if find_spec(name) is not None]
    for name in present:
        found += ["-p", _PLUGINS[name]]
    if "xdist" in present and processes > 1:
        found += ["-n", str(processes), "--dist", "loadfile"]
    if "pytest_timeout" in present:
        # A call that never comes back from the device hears no signal: its process ends, another takes its place.
        found += ["--timeout", str(seconds), "--timeout-method", "thread"]
    return found


def failed(junit: Path) -> Iterator[str]:
    """The tests of a report that did not pass, as pytest takes them."""
    if junit.exists():
        for case in ElementTree.parse(junit).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                yield f"{case.get('file')}::{case.get('name')}"


def run(arguments: Sequence[str], seconds: float, log: Path | None = None, **environment: str) -> int | None:
    """The exit status; None if it had to be ended. log: where its output is added to, else it is printed."""
    variables = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "2"} | environment
    with open(os.devnull if log is None else log, "ab") as file:
        output = None if log is None else file
        child = subprocess.Popen(
            arguments, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
        try:
            child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return None


def check(root: Path, output: Path, seconds: float, extra: Sequence[str]) -> bool:
    """Whether all is well: each stage came to its end, and what failed passes alone."""
    deadline = time.monotonic() + seconds
    suspects: list[str] = []
    is_well = True
    for stage in stages(root):
        left = deadline - time.monotonic()
        if left < 2 * _GRACE:
            print(f"{stage.name}: LEFT OUT: the time is over.", flush=True)
            is_well = False
            continue
        junit = output / f"check-{stage.name}.xml"
        junit.unlink(missing_ok=True)
        status = run([*command(_PROCESSES, _TEST_SECONDS, junit), *stage.files, *extra], left - _GRACE)
        found = list(failed(junit))
        print(f"{stage.name}: {_ENDINGS.get(status, f'status {status}')}, {len(found)} failed", flush=True)
        is_well = is_well and (bool(found) if status == _SOME_FAILED else status in (0, _NOTHING_CHOSEN))
        suspects += found
    failing = [test for test in suspects if not _passes_alone(test, output, deadline)]
    return is_well and not failing


def _passes_alone(test: str, output: Path, deadline: float) -> bool:
    left = min(_ALONE_SECONDS, deadline - time.monotonic())
    if left < _GRACE:
        print(f"NOT TRIED ALONE {test}", flush=True)
        return False
    alone = [*command(1, _ALONE_SECONDS, output / "check-again.xml"), test]
    status = run(alone, left, output / "check-again.log", CUDA_LAUNCH_BLOCKING="1")
    print(f"{'passes alone' if status == 0 else 'FAILS ALONE, TOO'} {test}", flush=True)
    return status == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("gpu-contact"), help="a folder")
    parser.add_argument("--seconds", type=float, default=540.0, help="for everything")
    parser.add_argument("extra", nargs="*", help="for pytest")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    settle(PACKED, own_cache())
    sys.exit(not check(Path.cwd(), arguments.output, arguments.seconds, arguments.extra))


if __name__ == "__main__":
    main()
