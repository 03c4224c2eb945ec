"""What the process may use of this machine: cores, host memory, device, data type. Knows no model."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from multiflora_engine.core.host_memory import container_limit
from multiflora_engine.models.errors import ModelError

_DTYPES = {
    "float32": torch.float32,
    "float": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "half": torch.float16,
}

_KV_DTYPES = {
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}

_MALLOC_PARAMETERS = ((-3, 32 << 20), (-1, 256 << 20))
"""M_MMAP_THRESHOLD, at its largest, and M_TRIM_THRESHOLD: larger pieces, and what is free above, goes back at once."""


def available_cores() -> int:
    """Cores this process may run on: its affinity, and the container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = container_limit("cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    return cores


@contextmanager
def memory_errors_explained() -> Iterator[None]:
    """Raises ModelError for an allocation that this machine refuses."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch has no type for it.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ModelError(
            "The engine needs more memory than there is. Lower --max-num-seqs, --max-num-batched-tokens, --max-loras "
            f"or --kv-cache-memory. ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error


def use_threads(num_threads: int | None, engines_per_host: int = 1) -> None:
    """Let torch compute with this many threads; None: as OMP_NUM_THREADS says, else this engine's part of the cores."""
    if num_threads is None and "OMP_NUM_THREADS" in os.environ:
        return
    torch.set_num_threads(num_threads or max(1, available_cores() // engines_per_host))


def keep_freed_memory() -> None:
    """What a step frees stays with the process for the next one: by default glibc gives large pieces back and takes
    them anew, page by page, a tenth of a step that reads prompts. Elsewhere than with glibc nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _MALLOC_PARAMETERS:
            mallopt(parameter, value)


def choose_device(name: str) -> torch.device:
    """ "auto" is the first CUDA device if there is one. Raises ModelError for a device that is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not name.startswith("cuda"):
        raise ModelError(f"The device {name!r} is not supported. Use --device auto, cpu or cuda.")
    if not torch.cuda.is_available():
        raise ModelError("No CUDA device can be used here. Use --device cpu, or check the driver with nvidia-smi.")
    return torch.device(name if ":" in name else "cuda:0")


def device_memory(device: torch.device) -> int | None:
    """Bytes of all its memory; None for a CPU, which has the host's."""
    return None if device.type == "cpu" else torch.cuda.mem_get_info(device)[1]


def use_device(device: torch.device) -> None:
    """What names no device (streams, events, graphs, launches) means this one from now on, on this thread."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def runs_asynchronously(device: torch.device) -> bool:
    """Whether a launch returns before the device is done, so that it pays to plan the next step meanwhile."""
    return device.type == "cuda"


def choose_dtype(name: str, checkpoint: str | None, device: torch.device) -> torch.dtype:
    """Of activations and whatever is not kept narrower. "auto" is float32 on a CPU, whose kernels compute in it,
    elsewhere the checkpoint's own type."""
    if name == "auto":
        name = "float32" if device.type == "cpu" else checkpoint or "bfloat16"
    if name not in _DTYPES:
        raise ModelError(f"The data type {name!r} is not supported. Use --dtype auto, float32, bfloat16 or float16.")
    return _DTYPES[name]


def choose_kv_dtype(name: str, own: torch.dtype) -> torch.dtype:
    """own: the model's, which "auto" takes for keys and values."""
    if name == "auto":
        return own
    if name not in _KV_DTYPES:
        raise ModelError(
            f"The KV cache cannot be kept as {name!r}. Use --kv-cache-dtype auto, {', '.join(_KV_DTYPES)}."
        )
    return _KV_DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
