"""PyTorch's own attention at the same shapes, from keys and values that lie side by side: what paging costs, and
whether our kernels are as good as those of the libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu.measure import Probe, Row
from gpu.probes.attention import DECODE, LLAMA_HEADS, PREFILL, Shape
from multiflora_kernels.attention.tiles import AttentionHeads

_BEYOND_L2 = 512 << 20
_MOST_LAYERS = 8
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def sdpa_probes(
    device: torch.device, heads: AttentionHeads = LLAMA_HEADS, shapes: Sequence[Shape] = (*DECODE, *PREFILL)
) -> Iterator[Probe]:
    """Of decodes and of whole prompts: a causal mask over the end of a longer context these backends do not have."""
    for shape in shapes:
        if shape.queries in (1, shape.context):
            for name in BACKENDS:
                yield Probe(f"sdpa {name}, {shape}", partial(_row, name, shape, heads, device))


def _row(name: str, shape: Shape, heads: AttentionHeads, device: torch.device) -> Row:
    keys = (2, shape.sequences, heads.kv_heads, shape.context, heads.head_size)
    layer_bytes = 2 * shape.sequences * heads.kv_heads * shape.context * heads.head_size * heads.dtype.itemsize
    layers = min(_MOST_LAYERS, -(-_BEYOND_L2 // layer_bytes))
    caches = torch.randn(layers, *keys, dtype=heads.dtype, device=device)
    queries = (shape.sequences, heads.q_heads, shape.queries, heads.head_size)
    q = torch.randn(queries, dtype=heads.dtype, device=device)

    def call() -> list[torch.Tensor]:
        with sdpa_kernel(BACKENDS[name]):
            return [
                F.scaled_dot_product_attention(q, k, v, is_causal=shape.queries > 1, enable_gqa=True) for k, v in caches
            ]

    moved = layer_bytes + 2 * q.nbytes
    return Row(f"sdpa {name}", f"{shape} x{layers}", float(layers * moved), layers * shape.flops(heads), call)
