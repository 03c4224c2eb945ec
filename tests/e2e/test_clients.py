"""Each snippet of docs/clients.md, as it stands there, against the demo; where its package is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SNIPPETS = re.findall(
    r"^```(python|bash) (\w+)\n(.*?)^```$", (ROOT / "docs" / "clients.md").read_text("utf-8"), re.M | re.S
)
# The client sends usage and telemetry to nobody while it is tested.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "TOKENIZERS_PARALLELISM": "false",
}


def test_every_client_has_its_snippet() -> None:
    assert {"openai", "anthropic", "langchain_openai", "llama_index", "litellm", "lm_eval", "guidellm", "vllm"} == {
        name for _, name, _ in SNIPPETS
    }


@pytest.mark.parametrize(("language", "package", "code"), SNIPPETS, ids=lambda value: str(value)[:20])
def test_snippet(demo: Any, tmp_path: Path, language: str, package: str, code: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    program = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
    environment = {
        **os.environ,
        **QUIET,
        "OPENAI_BASE_URL": f"{demo.url}/v1",
        "OPENAI_API_KEY": demo.key,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip()
