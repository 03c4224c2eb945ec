"""What a machine can do for a server, and what to change where it could do more. Knows no server."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from multiflora_engine.execution.step_sizes import graph_sizes, mixed_sizes
from multiflora_engine.protocol.config import SizedConfig
from multiflora_engine.protocol.messages import Ready
from multiflora_kernels.runtime.machine_cache import remembered
from multiflora_kernels.runtime.processor import this_processor
from multiflora_platform.observability.nvml import Gpu, gpus

Row = dict[str, Any]
GIB = 1 << 30


def checks(data_dir: Path) -> Iterator[Row]:
    """One row per fact, each {state: ok|info|warning|error, check, found, advice}. data_dir: where a server keeps, or
    will keep, its data. Imports no torch, which takes seconds."""
    yield _row("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _packages()
    yield _processor()
    yield _memory()
    yield _disk(data_dir)
    yield _torch()
    yield _native_kernels()
    yield _int8()
    yield _bfloat16()
    yield _gpu()


def usable_gpu() -> Gpu | None:
    """The one that an engine takes; None where it serves on the CPU."""
    return next(iter(gpus()), None) if _torch_cuda() is not None else None


def sizes_check(sizes: SizedConfig | Ready, has_graphs: bool) -> Row:
    """How large an engine's steps are, as it has chosen, or would, where the settings leave it to the device.
    has_graphs: on a GPU, without --enforce-eager."""
    sequences, tokens = sizes.max_num_seqs, sizes.max_num_batched_tokens
    found = [f"{sequences} sequences and {tokens} tokens a step"]
    if sizes.gpu_memory_utilization is not None:
        found.append(f"{sizes.gpu_memory_utilization:g} of the GPU's memory")
    if has_graphs:
        decodes, mixed = graph_sizes(sequences), mixed_sizes(tokens)
        found.append(
            f"graphs of {len(decodes)} sizes up to {sequences} sequences, {len(mixed)} up to {mixed[-1]} tokens"
        )
    return _row("ok", "engine sizes", ", ".join(found))


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
    found = this_processor().capabilities
    return _row("ok", "processor", f"{cores} cores, {', '.join(found) or 'no vector instructions known'}")


def _int8() -> Row:
    """How products of --quantization int8 are made, as the last start with it measured."""
    way = next(iter(reversed(remembered("integer_products").values())), None)
    match way:
        case None:
            found = "measured at the first start with it"
        case {"kind": str(kind), "least_rows": int(rows)}:
            bits = 16 if kind == "words" else 8
            found = f"activations in integers of {bits} bits, multiplied in integers from {rows} rows on"
        case _:
            found = "weights alone: products in integers are no faster here"
    return _row("info", "quantization int8", found)


def _bfloat16() -> Row:
    """How a checkpoint in bfloat16 is served by --dtype auto, as the last start with one measured."""
    way = next(iter(reversed(remembered("bfloat16_ways").values())), None)
    match way:
        case None:
            found = "measured at the first start with one"
        case {"rounds_from": int(rows)}:
            found = f"linears in bfloat16, with activations rounded to it, multiplied by torch from {rows} rows on"
        case {"rounds_from": None}:
            found = "linears in bfloat16, widened to float32 as they are multiplied"
        case _:
            found = "float32: weights in bfloat16 are slower here"
    return _row("info", "bfloat16 checkpoints", found)


def _memory() -> Row:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return _row("info", "memory", "unknown")
    page = os.sysconf("SC_PAGE_SIZE")
    free, total = os.sysconf("SC_AVPHYS_PAGES") * page / GIB, os.sysconf("SC_PHYS_PAGES") * page / GIB
    advice = "" if free > 2 else "less than 2 GiB free: lower --kv-cache-memory and --max-cpu-loras"
    return _row("warning" if advice else "ok", "memory", f"{free:.1f} of {total:.1f} GiB free", advice)


def _disk(data_dir: Path) -> Row:
    folder = data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    advice = "" if free > 1 else "artifacts need room: choose another --data-dir"
    return _row("warning" if advice else "ok", "disk", f"{free:.1f} GiB free at {folder}", advice)


def _torch() -> Row:
    if importlib.util.find_spec("torch") is None:
        return _row("error", "torch", "missing", "pip install multiflora again in a fresh virtual environment")
    cuda = _torch_cuda()
    return _row("ok", "torch", f"built for CUDA {cuda}" if cuda else "built for CPUs")


def _torch_cuda() -> str | None:
    """The CUDA release that torch was built for, from its version file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b.*= ['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return None if found is None else found[1]


def _native_kernels() -> Row:
    if os.environ.get("MULTIFLORA_NATIVE") == "0":
        return _row("warning", "cpu kernels", "switched off by MULTIFLORA_NATIVE=0", "unset it")
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is not None:
        return _row("ok", "cpu kernels", f"native: {compiler} compiles them at the first start")
    advice = "install a C++ compiler (g++ or clang++): CPU serving gets faster"
    return _row("warning", "cpu kernels", "torch only: no C++ compiler found", advice)


def _gpu() -> Row:
    first = next(iter(gpus()), None)
    if first is None:
        return _row("info", "gpu", "none usable", "the CPU serves; an NVIDIA GPU of sm_80 or newer is faster")
    major, minor = first.capability
    found = f"{first.name} (sm_{major}{minor})"
    if _torch_cuda() is None:
        return _row("warning", "gpu", found, "torch is built for CPUs: install a torch for CUDA to use it")
    if major < 8:
        return _row("warning", "gpu", found, "older than sm_80: use --device cpu")
    return _row("ok", "gpu", found)
