"""Imports go down: kernels | adapters <- engine <- platform, and floor by floor inside each. Gateways need no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("kernels", "adapters", "engine", "platform")
PACKAGES = {
    "multiflora_kernels": {"multiflora_kernels"},
    "multiflora_adapters": {"multiflora_adapters"},
    "multiflora_engine": {"multiflora_engine", "multiflora_kernels", "multiflora_adapters"},
    "multiflora_platform": {"multiflora_platform", "multiflora_engine", "multiflora_adapters", "multiflora_kernels"},
    "multiflora": {"multiflora", "multiflora_platform", "multiflora_engine", "multiflora_adapters"},
}
FLOORS = {
    "multiflora_kernels": {
        "runtime": 1,
        "attention": 2,
        "linear": 2,
        "moe": 5,
        "sampling": 2,
        "lora": 3,
        "activation": 4,
        "layer_norm": 4,
        "rms_norm": 4,
        "rope": 5,
        "benchmark": 6,
        "compile_check": 6,
    },
    "multiflora_engine": {
        "protocol": 1,
        "core": 2,
        "profiling": 2,
        "cache": 3,
        "models": 3,
        "residency": 3,
        "sampling": 3,
        "speculation": 3,
        "execution": 4,
        "offload": 4,
        "scheduling": 4,
        "simulation": 4,
        "engine": 5,
        "parallel": 5,
        "build": 6,
        "process": 7,
    },
    "multiflora_platform": {
        "confinement": 1,
        "engine": 1,
        "exit_codes": 1,
        "percentiles": 1,
        "settings": 1,
        "text": 1,
        "web": 1,
        "workers": 1,
        "bench": 2,
        "conversion": 2,
        "demo": 2,
        "engine_requests": 2,
        "observability": 2,
        "prices": 2,
        "storage": 2,
        "structured": 2,
        "traffic": 2,
        "vllm_options": 2,
        "auth": 3,
        "configuration": 3,
        "fleet": 3,
        "insight": 3,
        "messages": 3,
        "model_files": 3,
        "contexts": 4,
        "fleet_simulation": 4,
        "groups": 4,
        "registry": 4,
        "webhooks": 4,
        "services": 5,
        "gateway": 6,
        "ui": 6,
        "base_models": 7,
        "batches": 7,
        "evals": 7,
        "insight_api": 7,
        "server": 8,
        "on_ray": 9,
        "cli": 10,
        "client_source": 10,
    },
    "multiflora_platform.gateway": {
        "beams": 1,
        "refusals": 1,
        "schemas": 1,
        "generation": 2,
        "prompting": 2,
        "background": 3,
        "explaining": 3,
        "messages_api": 3,
        "responses_api": 3,
        "writing": 3,
        "routes": 4,
        "in_process": 5,
    },
    "multiflora_platform.registry": {
        "errors": 1,
        "schemas": 1,
        "snapshot": 2,
        "sources": 2,
        "rows": 3,
        "artifacts": 4,
        "jobs": 4,
        "backup": 5,
        "serving": 5,
        "changes": 6,
        "intake": 7,
        "shadow_runs": 7,
        "service": 8,
        "routes": 9,
    },
}
"""A module or folder imports only from lower floors; its neighbours on the same floor are strangers."""
MOST_MODULES = {"cli": 28, "multiflora_adapters": 20, "auth": 20}
TORCH_FREE = (
    "multiflora",
    "multiflora_adapters.store",
    "multiflora_adapters.validation",
    "multiflora_engine.cache.block_hashes",
    "multiflora_engine.process.client",
    "multiflora_engine.sampling.grammars",
    "multiflora_engine.models.configuration.reading",
    "multiflora_engine.process.supervisor",
    "multiflora_platform.server.app",
    "multiflora_platform.cli.main",
    "multiflora_platform.registry.service",
    "multiflora_platform.server.serve",
)


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name; a package under its own."""
    found = {}
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            parts = path.relative_to(ROOT / source).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """What each module imports of the project: lazily and under TYPE_CHECKING, too."""
    return {name: frozenset(_imported(name, path)) for name, path in modules().items()}


def _imported(name: str, path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return {module for imported in found if (module := _module(imported)) not in (None, name)}


def _module(dotted: str) -> str | None:
    """The project's module that the name is, or stands in."""
    while dotted and dotted not in modules():
        dotted = dotted.rpartition(".")[0]
    return dotted or None


def unit(package: str, module: str) -> str | None:
    """The part of the package that the module belongs to; None outside, and for the package's own `__init__`."""
    inside = module.removeprefix(package + ".")
    return inside.partition(".")[0] if inside != module else None


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    wrong = {
        name: sorted(extra)
        for name, imported in imports().items()
        if name.split(".")[0] == package
        and (extra := {i for i in imported if i.split(".")[0] not in PACKAGES[package]})
    }
    assert not wrong


@pytest.mark.parametrize("package", FLOORS)
def test_every_import_goes_to_a_lower_floor(package: str) -> None:
    floors = FLOORS[package]
    wrong = [
        f"{name} (floor {floors[above]}) imports {imported} (floor {floors[below]})"
        for name in imports()
        if (above := unit(package, name)) is not None
        for imported in imports()[name]
        if (below := unit(package, imported)) is not None and above != below and floors[above] <= floors[below]
    ]
    assert not wrong


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_stands_on_a_floor(package: str) -> None:
    assert {unit(package, name) for name in modules()} - {None} == set(FLOORS[package])


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_room_is_overfull_and_each_says_what_it_holds() -> None:
    rooms: dict[Path, int] = {}
    for path in modules().values():
        rooms[path.parent] = rooms.get(path.parent, 0) + (path.name != "__init__.py")
    assert not {room: count for room, count in rooms.items() if count > MOST_MODULES.get(room.name, 15)}
    documented = {path.parent for path in modules().values() if path.name == "__init__.py" and _says_something(path)}
    assert set(rooms) == documented


def _says_something(path: Path) -> bool:
    return len(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") > 20


def test_tests_stand_where_their_sources_stand() -> None:
    sources = {path.parent.relative_to(ROOT) for path in modules().values()}
    rooms = {Path(source, *room.parts[1:]) for room in _test_rooms() for source in room.parts[:1]}
    named = {Path(path.parts[0], *path.parts[2:]) for path in sources}
    named |= {Path(path.parts[0], *path.parts[1:]) for path in sources if path.parts[1:2] == ("multiflora",)}
    assert not rooms - named - {Path("engine/parity")}


def _test_rooms() -> set[Path]:
    """Folders of tests of single packages, relative to tests/."""
    tests = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    return {room for room in tests if room.parts and room.parts[0] in SOURCES}


def test_top_level_folders_are_not_packages() -> None:
    assert not [folder for folder in SOURCES if (ROOT / folder / "__init__.py").exists()]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_the_platform_imports_without_what_only_engines_and_workers_need(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules.keys() & {{'torch', 'jsonschema'}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b""


def test_only_one_file_imports_ray() -> None:
    users = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(_of_ray(alias.name) for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and _of_ray(node.module or ""))
    }
    assert users == {"multiflora_platform.on_ray.cluster"}


def _of_ray(dotted: str) -> bool:
    return dotted.partition(".")[0] == "ray"


def test_neither_gateways_nor_the_command_line_import_what_imports_ray() -> None:
    lazy = {name for name, path in modules().items() if "import cluster" in path.read_text(encoding="utf-8")}
    assert lazy == {"multiflora_platform.cli.on_ray"}
    code = "import sys, multiflora_platform.server.serve, multiflora_platform.cli.main; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
