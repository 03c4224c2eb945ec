"""What adapters' biases add to a linear's product: one vector per adapter. Knows no sites.

PyTorch on every device: few adapters have biases, and on a GPU two launches a linear, also inside a graph, serve them.
"""

from __future__ import annotations

import torch

from multiflora_kernels.lora.batched_lora import LoraSegments


def lora_shift_(y: torch.Tensor, shift: torch.Tensor, segments: LoraSegments) -> None:
    """y: [T, N], in place; shift: float32 [slots, N], 0 for adapters without one.

    Semantics, for the tokens t of a segment of slot s: y[t] += shift[s]. Rows of the base stay as they are.
    """
    if segments.tiles is None:
        for begin, end, slot in segments.spans():
            y[begin:end] += shift[slot]
        return
    # A graph may be replayed with other adapters: which row is whose only the device knows.
    slots = segments.tiles.row_slots[: len(y)]
    shifted = (y + shift[slots.clamp(min=0)]).to(y.dtype)
    y.copy_(torch.where((slots >= 0)[:, None], shifted, y))
