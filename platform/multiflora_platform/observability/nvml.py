"""The machine's NVIDIA GPUs, as the driver's management library (NVML) tells. Imports no torch.

Source: NVML API reference, https://docs.nvidia.com/deploy/nvml-api.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from dataclasses import dataclass

_NAME_LENGTH = 96


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@dataclass(frozen=True)
class Gpu:
    """One GPU now. capability: of its code, (8, 0) for sm_80."""

    index: int
    name: str
    capability: tuple[int, int]
    utilization: float | None
    """Share of the last moments, from 0 to 1, in which a kernel ran; None where the driver does not tell."""
    memory_used: int | None
    """Bytes, of all processes."""
    memory_total: int | None = None
    """Bytes of the card; None where the driver does not tell."""


def gpus() -> list[Gpu]:
    """Empty without a driver, or without a GPU."""
    library = _library()
    return [] if library is None else list(_read(library))


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Kept for the life of the process: to begin anew takes longer than all questions."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def _read(library: ctypes.CDLL) -> Iterator[Gpu]:
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return
    for index in range(count.value):
        device, name = ctypes.c_void_p(), ctypes.create_string_buffer(_NAME_LENGTH)
        major, minor = ctypes.c_int(), ctypes.c_int()
        errors = (
            library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)),
            library.nvmlDeviceGetName(device, name, len(name)),
            library.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor)),
        )
        if not any(errors):
            text = name.value.decode("utf-8", "replace")
            used, memory = _utilization(library, device), _memory(library, device)
            yield Gpu(index, text, (major.value, minor.value), used, *memory)


def _utilization(library: ctypes.CDLL, device: ctypes.c_void_p) -> float | None:
    rates = _Utilization()
    return rates.gpu / 100 if library.nvmlDeviceGetUtilizationRates(device, ctypes.byref(rates)) == 0 else None


def _memory(library: ctypes.CDLL, device: ctypes.c_void_p) -> tuple[int, int] | tuple[None, None]:
    """Used and all of it."""
    memory = _Memory()
    is_told = library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
    return (memory.used, memory.total) if is_told else (None, None)
