"""Every example is run as its first lines say, against the demo, and says what its readers are promised."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".sh")}

Run = Callable[..., str]
pytestmark = pytest.mark.slow


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    """The output of an example. Only those that talk to the server start it."""

    def run(name: str, **variables: str) -> str:
        server: Any = None if name == "offline.py" else request.getfixturevalue("demo")
        program = ["bash"] if name.endswith(".sh") else [sys.executable]
        environment = {
            **os.environ,
            **variables,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        if server is not None:
            environment |= {"MULTIFLORA_URL": server.url, "MULTIFLORA_API_KEY": server.key}
        command = [*program, f"examples/{name}"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run


def test_every_example_has_its_test() -> None:
    assert {"offline.py", "openai_client.py", "rag.py", "batch.py", "canary.sh"} == EXAMPLES


def test_offline(run: Run) -> None:
    lines = run("offline.py").splitlines()
    assert lines[0] == "sql: SELECT name, price FROM products WHERE price > 40;"
    assert [line.partition(":")[0] for line in lines] == ["sql", "pirate", "base"]
    assert lines[1].removeprefix("pirate") != lines[2].removeprefix("base")


def test_openai_client(run: Run, demo: Any) -> None:
    out = run("openai_client.py")
    with demo.openai() as client:
        assert all(f"{model.id}: " in out for model in client.models.list())
    assert '"colour": "blue"' in out
    assert out.rstrip().endswith("streamed: SELECT name FROM products;")


def test_rag_reads_the_context_from_the_cache(run: Run) -> None:
    lines = run("rag.py").splitlines()
    cached, total = ([int(line.split()[word]) for line in lines if " prompt tokens cached" in line] for word in (0, 2))
    assert len(cached) == 6
    assert all(hit > 0.9 * length for hit, length in zip(cached[1:], total[1:], strict=True))
    assert lines[-1] == "6 of 6 answers are right"


def test_batch_leaves_no_files(run: Run, demo: Any) -> None:
    with demo.openai() as client:
        before = client.files.list().data
    lines = run("batch.py").splitlines()
    assert lines[0] == "completed: 4 answered, 0 failed"
    assert [line.partition(":")[0] for line in lines[1:]] == [f"ticket-{i}" for i in range(4)]
    assert all("queue: " in line for line in lines[1:])
    with demo.openai() as client:
        assert client.files.list().data == before


def test_a_good_canary_is_promoted(run: Run, demo: Any) -> None:
    out = run("canary.sh")
    assert "still within its bounds: promoted" in out
    assert "default → 2" in out
    with demo.http() as http:
        assert http.get("/api/v1/adapters/canary-demo").status_code == 404


def test_a_canary_out_of_its_bounds_is_taken_back(run: Run) -> None:
    out = run("canary.sh", BOUNDS="--max-p95-seconds 0.001")
    assert "the server has ended it (rolled_back)" in out
    assert "default → 1" in out
