"""What kernels must know of a card to choose their sizes. Knows no kernel."""

from __future__ import annotations

import functools

import torch

_CLASSES = ((90, 227 << 10), (80, 163 << 10))
"""Names of classes, and the shared memory of a block that each has at least."""


@functools.cache
def device_class(device: torch.device) -> tuple[int, int]:
    """(multiprocessors, class); four in the interpreter, so that small inputs are split, too."""
    if device.type != "cuda":
        return 4, 90
    properties = torch.cuda.get_device_properties(device)
    shared_memory: int = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return properties.multi_processor_count, capability_class(shared_memory)


def capability_class(shared_memory: int) -> int:
    """90, 80 or 86, whose tiles fit into so many bytes of a block. The number of a generation does not say: sm_89 and
    sm_120 have less than sm_80."""
    return next((name for name, least in _CLASSES if shared_memory >= least), 86)
