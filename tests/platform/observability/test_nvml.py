"""The management library's calls, against one of our own with two GPUs; and what /metrics and doctor make of them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from multiflora_engine.protocol.messages import EngineStats
from multiflora_platform.observability import machine, nvml
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.observability.nvml import Gpu
from multiflora_platform.observability.scrape import EngineView

SOURCE = r"""
#include <cstring>
extern "C" {
typedef struct { unsigned index; } *device_t;
static struct { unsigned index; } devices[2] = {{0}, {1}};
int nvmlInit_v2() { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device) { *device = &devices[i]; return 0; }
int nvmlDeviceGetName(device_t, char *name, unsigned length) { strncpy(name, "Test GPU", length); return 0; }
int nvmlDeviceGetCudaComputeCapability(device_t, int *major, int *minor) { *major = 9; *minor = 0; return 0; }
int nvmlDeviceGetUtilizationRates(device_t d, unsigned *rates) {
    if (d->index) return 3;  // not supported
    rates[0] = 85; rates[1] = 12; return 0;
}
int nvmlDeviceGetMemoryInfo(device_t d, unsigned long long *memory) {
    memory[0] = 80ull << 30; memory[1] = (40ull << 30) - d->index; memory[2] = (40ull << 30) + d->index; return 0;
}
}
"""
TWO = [
    Gpu(0, "Test GPU", (9, 0), 0.85, 40 << 30, 80 << 30),
    Gpu(1, "Test GPU", (9, 0), None, (40 << 30) + 1, 80 << 30),
]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    (tmp_path / "nvml.cpp").write_text(SOURCE, encoding="ascii")
    file = tmp_path / "nvml.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", file, tmp_path / "nvml.cpp"], check=True)
    monkeypatch.setattr(nvml, "_library", lambda: ctypes.CDLL(str(file)))


def test_what_the_driver_tells(library: None) -> None:
    assert nvml.gpus() == TWO


def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    nvml._library.cache_clear()
    try:
        assert nvml.gpus() == []
    finally:
        nvml._library.cache_clear()


def test_metrics_show_what_is_told_and_nothing_without_a_gpu() -> None:
    view = EngineView("base", "ready", 0, EngineStats(), None)
    lines = Metrics("base").render([view], TWO).decode().splitlines()
    assert [line for line in lines if line.startswith("multiflora_gpu")] == [
        'multiflora_gpu_utilization{gpu="0",model_name="base"} 0.85',
        'multiflora_gpu_memory_used_bytes{gpu="0",model_name="base"} 4.294967296e+10',
        'multiflora_gpu_memory_used_bytes{gpu="1",model_name="base"} 4.2949672961e+10',
    ]
    assert b"multiflora_gpu" not in Metrics("base").render([view])


def test_doctor_names_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: TWO)
    monkeypatch.setattr(machine, "_torch_cuda", lambda: "13.0")
    assert machine._gpu()["found"] == "Test GPU (sm_90)"
