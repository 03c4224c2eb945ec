"""The README's quick start is run: every command and program in it, against a server as it starts one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_START = README.split("\n## Quick start", 1)[1].split("\n## ", 1)[0]
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", QUICK_START, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=[f"{i}-{b[0]}" for i, b in enumerate(BLOCKS)])
def test_the_quick_start_works_as_written(demo: Any, language: str, code: str) -> None:
    environment = {
        **os.environ,
        "MULTIFLORA_API_KEY": demo.key,
        "MULTIFLORA_URL": demo.url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    code = code.replace("http://127.0.0.1:8000", demo.url).replace(".venv/bin/", "")
    code = re.sub(r"^export MULTIFLORA_API_KEY=.*\n", "", code)
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error"' not in done.stdout


def test_the_quick_start_has_every_way_in() -> None:
    assert [language for language, _ in BLOCKS].count("python") >= 2
    assert "make serve" in QUICK_START
