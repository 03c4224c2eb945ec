"""What the processor has instructions for, as the operating system lists them. Torch-free; measures nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LISTS = ("flags", "Features")
"""x86's name for the list in /proc/cpuinfo, and Arm's."""

_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"}
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
_VECTORS = {"avx2", "avx512f", "asimd"}


@dataclass(frozen=True)
class Processor:
    """features: by Linux's names; empty where it does not say."""

    features: frozenset[str]

    @property
    def multiplies_int8(self) -> bool:
        """Products of bytes are summed in 32 bits by one instruction: VNNI, AMX, Arm's i8mm and dot products."""
        return bool(self.features & _INT8)

    @property
    def multiplies_bfloat16(self) -> bool:
        """Products of bfloat16 are summed in float32 by one instruction: AVX512_BF16, AMX, Arm's bf16."""
        return bool(self.features & _BFLOAT16)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Of its features those that decide how products are made."""
        return tuple(sorted(self.features & (_VECTORS | _INT8 | _BFLOAT16)))


def described(cpuinfo: str) -> Processor:
    """cpuinfo: as Linux writes it; what all its processors have counts."""
    lists = [
        frozenset(value.split())
        for line in cpuinfo.splitlines()
        for name, _, value in [line.partition(":")]
        if name.strip() in _LISTS
    ]
    return Processor(frozenset.intersection(*lists) if lists else frozenset())


@cache
def this_processor() -> Processor:
    """Elsewhere than on Linux nothing is known of its features."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    return described(cpuinfo)
