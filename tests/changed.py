"""Runs the tests of what has changed against main, within a minute: `make check` ends with it.

A test stands where its source stands; so a changed file names its tests. Also a pytest plugin, which skips what is
left when the time is spent and says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("kernels", "adapters", "engine", "platform")
ALWAYS = "tests/test_imports.py"
ELSEWHERE = {
    "kernels/multiflora_kernels/native": "tests/kernels",
    "migrations": "tests/platform/storage/test_migrations.py",
    "benchmarks": "tests/benchmarks",
    "examples": "tests/e2e/test_examples.py",
    "deploy": "tests/deploy",
    "docs": "tests/test_docs.py",
    "README.md": "tests/test_docs.py",
    "CONTRIBUTING.md": "tests/test_docs.py",
    "Makefile": "tests/test_docs.py",
}
"""Tests of what does not mirror its source."""
SECONDS = 35.0
_END = "CHECK_ENDS_AT"  # Unix seconds, in the environment: all workers share one end


def main() -> int:
    chosen = choose(changed_files())
    print("tests of what has changed:", *chosen, sep="\n  ", flush=True)
    command = [sys.executable, "-m", "pytest", "-p", "tests.changed", "-n", "2", "--dist", "loadfile", "-rs"]
    command += ["-m", "not slow and not browser", *chosen]
    return subprocess.run(command, env={**os.environ, _END: str(time.time() + SECONDS)}, check=False).returncode


def changed_files() -> list[str]:
    """Since the branch left main, on main since the last commit; with what is not committed or not yet known to git."""
    base = next((commit for name in ("main", "origin/main") if (commit := _git("merge-base", name, "HEAD"))), ["HEAD"])
    return _git("diff", "--name-only", "--diff-filter=d", base[0]) + _git("ls-files", "--others", "--exclude-standard")


def choose(changed: Iterable[str]) -> list[str]:
    """Files and folders of tests, those of what has changed first. test_imports.py belongs to every change."""
    found = [test for path in changed for test in _tests_of(Path(path))]
    return list(dict.fromkeys([*found, ALWAYS]))


def _tests_of(path: Path) -> Iterator[str]:
    elsewhere = [tests for source, tests in ELSEWHERE.items() if path.is_relative_to(source)]
    if elsewhere:
        yield from elsewhere
    elif path.parts[0] == "tests" and path.suffix == ".py":
        yield from [str(path)] if path.name.startswith("test_") else _in(path.parent)
    elif path.parts[0] in SOURCES and len(path.parts) > 2:
        yield from _mirrored(path)


def _mirrored(path: Path) -> list[str]:
    """test_NAME.py in the room of the same name, or all tests there; where there are none, likewise further up."""
    top = Path("tests", path.parts[0])
    inside = path.parts[1:] if path.parts[1] == "multiflora" else path.parts[2:]
    room = top.joinpath(*inside[:-1])
    if (ROOT / room / f"test_{path.stem}.py").is_file():
        return [str(room / f"test_{path.stem}.py")]
    if tests := _in(room):
        return tests
    while room != top:
        room = room.parent
        same_name = sorted((ROOT / room).rglob(f"test_{path.stem}.py"))
        if same_name or (room != top and _in(room)):
            return [str(test.relative_to(ROOT)) for test in same_name] or _in(room)
    return []


def _in(room: Path) -> list[str]:
    """The tests directly in a folder of tests/; none in tests/ itself."""
    tests = [] if room == Path("tests") else (ROOT / room).glob("test_*.py")
    return sorted(str(path.relative_to(ROOT)) for path in tests)


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    if time.time() > float(os.environ.get(_END, "inf")):
        pytest.skip("the time of `make check` is spent; `make test` runs it")


if __name__ == "__main__":
    sys.exit(main())
