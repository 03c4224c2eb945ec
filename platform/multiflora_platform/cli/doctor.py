"""`multiflora doctor`: what this machine can do, and what to change where it could do more."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from multiflora_platform.cli.output import add_output_flag, emit
from multiflora_platform.settings import default_data_dir

Row = dict[str, Any]
GIB = 1 << 30


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="explain what this machine can do")
    add_output_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    rows = list(checks())
    emit(arguments.output, rows, ("state", "check", "found", "advice"))
    return 1 if any(row["state"] == "error" for row in rows) else 0


def checks() -> Iterator[Row]:
    """One row per fact, each {state: ok|info|warning|error, check, found, advice}."""
    yield _row("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _packages()
    yield _processor()
    yield _memory()
    yield _disk()
    try:
        import torch
    except ImportError as error:
        yield _row("error", "torch", str(error), "pip install multiflora again in a fresh virtual environment")
        return
    yield _native_kernels()
    yield _gpu(torch)


def _row(state: str, check: str, found: str, advice: str = "") -> Row:
    return {"state": state, "check": check, "found": found, "advice": advice}


def _packages() -> Row:
    found = []
    for name in ("multiflora", "torch", "triton", "tokenizers", "safetensors"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    return _row("ok", "packages", ", ".join(found))


def _processor() -> Row:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags: set[str] = set()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            flags = {word for line in lines if line.startswith("flags") for word in line.split()}
    vectors = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "no AVX seen")
    return _row("ok", "processor", f"{cores} cores, {vectors}", "CPU serving runs in float32")


def _memory() -> Row:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return _row("info", "memory", "unknown")
    page = os.sysconf("SC_PAGE_SIZE")
    free, total = os.sysconf("SC_AVPHYS_PAGES") * page / GIB, os.sysconf("SC_PHYS_PAGES") * page / GIB
    advice = "" if free > 2 else "less than 2 GiB free: lower --kv-cache-memory and --max-cpu-loras"
    return _row("warning" if advice else "ok", "memory", f"{free:.1f} of {total:.1f} GiB free", advice)


def _disk() -> Row:
    folder = default_data_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    advice = "" if free > 1 else "artifacts need room: choose another --data-dir"
    return _row("warning" if advice else "ok", "disk", f"{free:.1f} GiB free at {folder}", advice)


def _native_kernels() -> Row:
    from multiflora_kernels.runtime.native import native_status

    status = native_status()
    if status.startswith("native"):
        return _row("ok", "cpu kernels", status)
    return _row("warning", "cpu kernels", status, "install a C++ compiler (g++ or clang++): CPU serving gets faster")


def _gpu(torch: Any) -> Row:
    if not torch.cuda.is_available():
        return _row("info", "gpu", "none usable", "the CPU serves; an NVIDIA GPU of sm_80 or newer is faster")
    major, minor = torch.cuda.get_device_capability()
    name = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
    if major < 8:
        return _row("warning", "gpu", name, "older than sm_80: use --device cpu")
    return _row("ok", "gpu", name)
