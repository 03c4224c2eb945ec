"""What /proc/cpuinfo says of a processor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from multiflora_kernels.runtime.processor import described, this_processor

ZEN3 = "processor : 0\nflags\t\t: fpu fma avx avx2 bmi2\n\nprocessor : 1\nflags : fpu avx2 fma\n"
SAPPHIRE = "flags\t: avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8 avx_vnni\n"
GRAVITON3 = "processor\t: 0\nFeatures\t: fp asimd asimddp sve i8mm bf16\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("cpuinfo", "int8", "bfloat16", "capabilities"),
    [
        (ZEN3, False, False, ("avx2",)),
        (SAPPHIRE, True, True, ("amx_bf16", "amx_int8", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni")),
        ("flags : avx2 avx512f avx512_vnni", True, False, ("avx2", "avx512_vnni", "avx512f")),
        ("flags : avx2 avx_vnni", True, False, ("avx2", "avx_vnni")),
        (GRAVITON3, True, True, ("asimd", "asimddp", "bf16", "i8mm")),
        ("Features : fp asimd", False, False, ("asimd",)),
        (f"{SAPPHIRE}\nflags : avx2\n", False, False, ("avx2",)),
        ("", False, False, ()),
    ],
)
def test_instructions_by_the_systems_list(cpuinfo, int8, bfloat16, capabilities):
    processor = described(cpuinfo)
    assert (processor.multiplies_int8, processor.multiplies_bfloat16) == (int8, bfloat16)
    assert processor.capabilities == capabilities


def test_this_machine_has_one():
    assert this_processor() == described(Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else "")
    assert this_processor() is this_processor()
