"""Every kernel compiles for both GPU generations and keeps its values in registers."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import pytest

from multiflora_kernels import compile_check as ahead_of_time
from multiflora_kernels.runtime.triton import triton

pytest.importorskip("triton")


TARGETS = {80: "sm_80", 86: "sm_86", 90: "sm_90a"}
SHARED_LIMITS = {"sm_80": 163 * 1024, "sm_86": 99 * 1024, "sm_90a": 227 * 1024}
"""Of one thread block, bytes (CUDA C programming guide, compute capabilities)."""


def _compiled() -> list[dict[str, int | str]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "multiflora_kernels.compile_check", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_every_variant_compiles_for_every_target_without_spills() -> None:
    rows = _compiled()
    variants = list(ahead_of_time.variants())
    assert len({variant.name for variant in variants}) == len(variants)
    assert sorted((row["kernel"], row["target"]) for row in rows) == sorted(
        (variant.name, TARGETS[capability]) for variant in variants for capability in variant.capabilities
    )
    assert not [row for row in rows if row["spills"]]
    assert all(int(row["shared"]) <= SHARED_LIMITS[str(row["target"])] for row in rows)
    names = {str(row["kernel"]) for row in rows}
    large = [str(row["kernel"]) for row in rows if row["target"] == "sm_80" and int(row["shared"]) > 99 * 1024]
    assert all(name.replace("sm_80", "sm_86") in names - {name} for name in large), "sm_86 and sm_89 run these as well"


@pytest.mark.skipif(not ahead_of_time.assembler(100).exists(), reason="Triton brings no compiler for sm_100")
def test_a_kernel_compiles_for_sm_100() -> None:
    """All of them: `python -m multiflora_kernels.compile_check --blackwell`."""
    code = """
from multiflora_kernels import compile_check
variant = next(one for one in compile_check.variants() if one.name.startswith("rms_norm"))
print(compile_check.compile_variant(variant, 100).spills)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "0\n", done.stderr


def test_every_kernel_has_a_variant() -> None:
    """Helpers that kernels call are compiled with them; entry points are those whose name ends in _kernel."""
    entries = {
        kernel
        for op in ahead_of_time.OPS
        for name, kernel in inspect.getmembers(op)
        if name.endswith("_kernel") and hasattr(kernel, "fn")
    }
    assert entries
    assert entries == {variant.kernel for variant in ahead_of_time.variants()}
    assert triton.__version__
