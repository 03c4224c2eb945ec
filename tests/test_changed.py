"""Which tests `make check` chooses, and that it ends in time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.changed import ALWAYS, ELSEWHERE, ROOT, SOURCES, changed_files, choose


@pytest.mark.parametrize(
    ("changed", "chosen"),
    [
        ("engine/multiflora_engine/engine.py", ["tests/engine/test_engine.py"]),
        ("engine/multiflora_engine/cache/eviction.py", ["tests/engine/cache/test_eviction.py"]),
        ("platform/multiflora/llm.py", ["tests/platform/multiflora/test_llm.py"]),
        ("platform/multiflora_platform/registry/rows/aliases.py", ["tests/platform/registry/routes/test_aliases.py"]),
        ("platform/multiflora_platform/ui/static/app.js", ["tests/platform/ui/test_assets.py"]),
        ("tests/adapters/test_mix.py", ["tests/adapters/test_mix.py"]),
        ("tests/engine/sampling/conftest.py", ["tests/engine/sampling/test_sampler.py"]),
        ("migrations/versions/0008_imports.py", ["tests/platform/storage/test_migrations.py"]),
        ("docs/api.md", ["tests/test_docs.py"]),
        ("tests/conftest.py", []),
        ("pyproject.toml", []),
    ],
)
def test_a_changed_file_names_its_tests(changed: str, chosen: list[str]) -> None:
    tests = choose([changed])
    assert tests[-1] == ALWAYS
    assert set(chosen) <= set(tests)
    assert chosen or tests == [ALWAYS]


def test_a_file_without_a_test_of_its_name_gets_those_of_its_room() -> None:
    tests = choose(["kernels/multiflora_kernels/lora/launch.py"])
    assert {"tests/kernels/lora/test_batched_lora.py", "tests/kernels/lora/test_tiles.py"} < set(tests)


def test_whatever_changes_its_tests_exist() -> None:
    sources = [path.relative_to(ROOT) for source in SOURCES for path in (ROOT / source).rglob("*.py")]
    assert len(sources) > 200
    missing = [test for test in choose(map(str, [*sources, *ELSEWHERE])) if not (ROOT / test).exists()]
    assert not missing


def test_a_file_that_git_does_not_know_yet_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.changed.ROOT", tmp_path)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-qb", "main"], [*author, "commit", "-qm", "first", "--allow-empty"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "new.py").touch()
    assert changed_files() == ["new.py"]
    subprocess.run(["git", "switch", "-qc", "branch"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", *author, "commit", "-qm", "second"], cwd=tmp_path, check=True)
    assert changed_files() == ["new.py"]


@pytest.mark.slow
def test_tests_are_skipped_and_told_when_the_time_is_spent(tmp_path: Path) -> None:
    (tmp_path / "test_any.py").write_text("def test_any(): raise AssertionError")
    command = [sys.executable, "-m", "pytest", "-p", "tests.changed", "-p", "no:cacheprovider", "-rs", str(tmp_path)]
    environment = {**os.environ, "CHECK_ENDS_AT": str(time.time() - 1)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert "`make test` runs it" in done.stdout
