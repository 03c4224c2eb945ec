"""Each program of docs/async.md is run as it stands there, where its package is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = re.findall(r"^```python (\w+)\n(.*?)^```$", (ROOT / "docs" / "async.md").read_text("utf-8"), re.M | re.S)


def test_the_page_has_programs_for_asyncio_and_langchain() -> None:
    assert [package for package, _ in PROGRAMS] == ["multiflora", "langchain_core", "langchain_core"]


@pytest.mark.slow
@pytest.mark.parametrize(("package", "code"), PROGRAMS, ids=[f"{i}-{p[0]}" for i, p in enumerate(PROGRAMS)])
def test_a_program_runs_as_written(package: str, code: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    # Another test's or a user's key would send what runs here to a service.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LANGCHAIN", "LANGSMITH"))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip()
