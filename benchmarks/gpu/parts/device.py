"""What is there: versions, the card, and how fast it copies and multiplies. All floors rest on the last."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gpu.case import Case, Setting
from gpu.measure import measure_limits

_PACKAGES = ("torch", "triton", "transformers", "peft", "msgspec", "llguidance", "vllm", "sglang", "flashinfer-python")


def cases(setting: Setting) -> Iterator[Case]:
    yield Case("versions", _versions)
    yield Case("limits", lambda: asdict(measure_limits()))


def _versions() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "card": f"{properties.name}, {properties.total_memory >> 30} GiB",
        "processors": properties.multi_processor_count,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _driver() -> str:
    """With the clocks, as the card's own program tells them."""
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    query = [
        "nvidia-smi",
        "--query-gpu=driver_version,clocks.max.sm,clocks.sm,clocks.mem,power.limit",
        "--format=csv,noheader",
    ]
    return subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
