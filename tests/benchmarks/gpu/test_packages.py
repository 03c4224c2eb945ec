"""What is carried to a machine with a GPU: packages for its Python, and kernels that it need not compile again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpu import packages
from gpu.kernel_cache import own_cache, settle
from gpu.packages import fetch_command, requirements, size

ROOT = Path(__file__).parents[3]

LAUNCH = """
import torch
from gpu.fake.card import fake_card
from multiflora_kernels.rms_norm import rms_norm
with fake_card() as card:
    x = torch.randn(4, 64, device="cuda", dtype=torch.bfloat16)
    rms_norm(x, torch.ones(64, device="cuda", dtype=x.dtype), 1e-5)
    print(*card.launches)
"""


def launch(cache: Path, **options: str) -> str:
    """In a process in which kernels are compiled, not interpreted; each launches one."""
    environment = {"PYTHONPATH": str(ROOT / "benchmarks"), "PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", LAUNCH]
    return subprocess.run(command, env=environment | options, capture_output=True, text=True, check=True).stdout


def test_a_kernel_is_not_compiled_where_its_cache_arrives(tmp_path: Path) -> None:
    packed, cache = tmp_path / "packed", tmp_path / "there"
    assert "rms_norm" in launch(packed, TRITON_STORE_BINARY_ONLY="1")
    assert not list(packed.rglob("*.ttir"))
    assert settle(packed, cache) == len(list(packed.iterdir()))
    for entry in packed.iterdir():
        (entry / "moved").touch()  # nothing may be looked up where it lay before
        entry.rename(tmp_path / entry.name)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert "rms_norm" in launch(cache)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before, "nothing was compiled"
    assert settle(tmp_path / "nothing", cache) == 0


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    for name in ("known", "new"):
        (tmp_path / "packed" / name).mkdir(parents=True)
        (tmp_path / "packed" / name / "kernel.cubin").write_text("packed")
    (tmp_path / "packed/new/__grp__kernel.json").write_text(json.dumps({"child_paths": {"kernel.cubin": "/elsewhere"}}))
    (tmp_path / "cache/known").mkdir(parents=True)
    (tmp_path / "cache/known/kernel.cubin").write_text("own")
    assert settle(tmp_path / "packed", tmp_path / "cache") == 1
    assert (tmp_path / "cache/known/kernel.cubin").read_text() == "own"
    listed = json.loads((tmp_path / "cache/new/__grp__kernel.json").read_text())["child_paths"]
    assert Path(listed["kernel.cubin"]).read_text() == "packed"
    assert settle(tmp_path / "packed", tmp_path / "cache") == 0


def test_the_cache_is_tritons_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.knobs import cache

    monkeypatch.setenv("TRITON_CACHE_DIR", "/some/where")
    assert str(own_cache()) == cache.dir == "/some/where"
    monkeypatch.delenv("TRITON_CACHE_DIR")
    assert str(own_cache()) == cache.dir


def test_packages_are_those_of_the_project_for_the_other_python() -> None:
    wanted = requirements(ROOT / "pyproject.toml")
    assert [line.split(">")[0] for line in wanted] == ["msgspec", "llguidance"]
    command = fetch_command(Path("folder"), "3.12", wanted)
    assert command[command.index("--python-version") + 1] == "3.12"
    assert "manylinux_2_31_x86_64" in command
    assert command[-2:] == wanted
    assert subprocess.run([*command[:3], "install", "--help"], capture_output=True, check=False).returncode == 0


def test_more_than_can_be_carried_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["msgspec>=1", "numpy"]\n')
    (tmp_path / ".gitignore").write_text("/.gpu-packages/\n/ignored\n")
    (tmp_path / "ignored").write_bytes(bytes(1000))
    calls: list[list[str]] = []

    def fetch(command: list[str], check: bool) -> None:
        calls.append(command)
        (tmp_path / ".gpu-packages").mkdir()
        (tmp_path / ".gpu-packages/package").write_bytes(bytes(500))

    monkeypatch.setattr(packages, "MOST_BYTES", 600)
    monkeypatch.setattr(sys, "argv", ["packages", ".gpu-packages"])
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: (fetch if "pip" in command else run)(command, **options)
    )
    packages.main()
    assert calls[0][-1] == "msgspec>=1"
    assert size(tmp_path, tmp_path / ".gpu-packages") < 600
    (tmp_path / "tracked").write_bytes(bytes(500))
    with pytest.raises(SystemExit, match="more than"):
        packages.main()
