"""Imports go one way, kernels | adapters <- engine <- platform, and the gateway's side of the house needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "multiflora_kernels": {"multiflora_kernels"},
    "multiflora_adapters": {"multiflora_adapters"},
    "multiflora_engine": {"multiflora_engine", "multiflora_kernels", "multiflora_adapters"},
    "multiflora_platform": {"multiflora_platform", "multiflora_engine", "multiflora_adapters", "multiflora_kernels"},
    "multiflora": {"multiflora", "multiflora_platform", "multiflora_engine", "multiflora_adapters"},
}
TORCH_FREE = (
    "multiflora",
    "multiflora_adapters.store",
    "multiflora_adapters.validation",
    "multiflora_engine.process.client",
    "multiflora_engine.sampling.grammars",
    "multiflora_engine.models.config",
    "multiflora_engine.process.supervisor",
    "multiflora_platform.server.app",
    "multiflora_platform.cli",
    "multiflora_platform.registry.service",
    "multiflora_platform.server.serve",
)


def _house_imports(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.add(node.module)
    return {module.split(".")[0] for module in modules if module.startswith("multiflora")}


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    folder = next(path for path in ROOT.glob(f"*/{package}") if path.is_dir())
    wrong = {
        str(path.relative_to(ROOT)): sorted(extra)
        for path in folder.rglob("*.py")
        if (extra := _house_imports(path) - ALLOWED[package])
    }
    assert not wrong


def test_top_level_folders_are_not_packages() -> None:
    assert not [
        folder for folder in ("kernels", "adapters", "engine", "platform") if (ROOT / folder / "__init__.py").exists()
    ]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_the_platform_imports_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_one_file_may_import_ray() -> None:
    users = [
        path
        for folder in ("kernels", "adapters", "engine", "platform")
        for path in (ROOT / folder).rglob("*.py")
        if "import ray" in path.read_text(encoding="utf-8")
    ]
    assert len(users) <= 1
