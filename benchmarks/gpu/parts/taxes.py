"""What adapters add to a decode step, in milliseconds, beside what reading them takes at least."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gpu.case import Case, Setting
from gpu.steps import Traffic, adapter_bytes, decode_seconds, itemsize, traffic_of

PAIRS = ((1, 1), (8, 8), (64, 64), (1, 32), (8, 32), (8, 64), (32, 64), (128, 128))
"""(adapters, batch)."""

_CONTEXT = 512
_ENGINES = ((16, 128), (64, 64))
"""(rank, adapters and sequences at most)."""


def cases(setting: Setting) -> Iterator[Case]:
    for rank, most in _ENGINES:
        traffic = traffic_of(setting, max_num_seqs=most, max_loras=most, max_lora_rank=rank)
        for adapters, batch in PAIRS:
            if batch <= most:
                name = f"rank {rank}, {adapters} adapters, batch {batch}"
                yield Case(name, partial(_tax, traffic, setting, rank, adapters, batch), 120)


def _tax(traffic: Callable[[], Traffic], setting: Setting, rank: int, adapters: int, batch: int) -> dict[str, Any]:
    """The base's own step is measured beside it, on the same engine."""
    base = decode_seconds(traffic(), batch, _CONTEXT)
    took = decode_seconds(traffic(), batch, _CONTEXT, adapters, rank)
    moved = adapters * adapter_bytes(traffic().built.model, rank, itemsize(traffic()))
    return {
        "base_ms": round(base * 1e3, 3),
        "tax_ms": round((took - base) * 1e3, 3),
        "floor_ms": round(moved / setting.limits.bandwidth * 1e3, 3),
        "tax": round(took / base - 1, 4),
    }
