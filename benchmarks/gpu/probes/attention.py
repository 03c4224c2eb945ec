"""Attention at the shapes of Llama 3.1 8B: decode, prefill, the rest of a cached prompt, and cascade beside plain.

A call plans once and then attends for several layers, as a step does, so that caches are larger than the card's L2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gpu.measure import Probe, Row
from multiflora_kernels.attention.cascade import (
    CascadeCosts,
    cascade_attention_triton,
    plan_parts,
    shared_groups,
)
from multiflora_kernels.attention.plan import AttentionPlan, CascadePlan, QueryBounds, plan_work
from multiflora_kernels.attention.step import AttentionStep
from multiflora_kernels.attention.tiles import AttentionHeads
from multiflora_kernels.attention.triton import paged_attention_triton

LLAMA_HEADS = AttentionHeads(q_heads=32, kv_heads=8, head_size=128, dtype=torch.bfloat16)
BLOCK_SIZE = 16
_BEYOND_L2 = 512 << 20
_MOST_LAYERS = 8
_ALWAYS = CascadeCosts(reread_rate=1e30, extra_seconds=-1.0)


@dataclass(frozen=True)
class Shape:
    """sequences with `queries` new tokens each at `context` tokens, of which `shared` lie in blocks common to all."""

    sequences: int
    queries: int
    context: int
    shared: int = 0

    @property
    def stored(self) -> int:
        """Tokens in the cache."""
        return self.shared + self.sequences * (self.context - self.shared)

    def flops(self, heads: AttentionHeads) -> float:
        """Of one layer, with a causal mask."""
        pairs = self.sequences * (self.queries * self.context - self.queries * (self.queries - 1) // 2)
        return 4.0 * pairs * heads.q_heads * heads.head_size

    def __str__(self) -> str:
        common = f" shared={self.shared}" if self.shared else ""
        return f"S={self.sequences} queries={self.queries} context={self.context}{common}"


DECODE = [Shape(batch, 1, context) for batch in (1, 32, 128, 256) for context in (512, 2048)]
PREFILL = [Shape(1, 1024, 1024), Shape(1, 8192, 8192), Shape(1, 32768, 32768), Shape(1, 16, 32768)]
SLOPED = [Shape(32, 1, 2048), Shape(1, 8192, 8192)]
SHARED = [Shape(16, 1, 1056, 1024), Shape(32, 1, 2176, 2048), Shape(128, 1, 1152, 1024), Shape(128, 1, 640, 128)]


class Work:
    """Random caches, shuffled blocks and one step's lengths."""

    def __init__(self, shape: Shape, heads: AttentionHeads, device: torch.device, sloped: bool = False) -> None:
        self.shape, self.heads, self._scale = shape, heads, heads.head_size**-0.5
        own, common = -(-(shape.context - shape.shared) // BLOCK_SIZE), shape.shared // BLOCK_SIZE
        blocks = common + shape.sequences * own
        layer_bytes = 2 * blocks * heads.kv_heads * BLOCK_SIZE * heads.head_size * heads.dtype.itemsize
        self.layers = min(_MOST_LAYERS, -(-_BEYOND_L2 // layer_bytes)) if device.type == "cuda" else 1
        cache = (self.layers, 2, blocks, heads.kv_heads, BLOCK_SIZE, heads.head_size)
        self._caches = torch.randn(cache, dtype=heads.dtype, device=device)
        order = torch.randperm(blocks, dtype=torch.int32)
        self._tables = torch.cat(
            [order[:common].expand(shape.sequences, -1), order[common:].view(shape.sequences, own)], dim=1
        ).contiguous()
        tokens = shape.sequences * shape.queries
        self._q = torch.randn(tokens, heads.q_heads, heads.head_size, dtype=heads.dtype, device=device)
        self._starts = torch.arange(0, tokens + 1, shape.queries, dtype=torch.int32, device=device)
        self._lengths = torch.full((shape.sequences,), shape.context, dtype=torch.int32, device=device)
        self._device_tables = self._tables.to(device)
        exponents = torch.arange(1, heads.q_heads + 1, dtype=torch.float32, device=device)
        self._slopes = torch.exp2(-8 * exponents / heads.q_heads) if sloped else None

    def plain(self) -> torch.Tensor:
        """Returns the last layer's results."""
        queries = self.shape.queries
        plan = plan_work(self._starts, self._lengths, len(self._q), self.heads, None, QueryBounds(queries, queries))
        step = self._step(plan)
        results = [paged_attention_triton(self._q, keys, values, step) for keys, values in self._caches]
        return results[-1]

    def cascade(self) -> Callable[[], torch.Tensor]:
        """Groups are found here, on the host; what is returned does the rest, like `plain`."""
        lengths = np.full(self.shape.sequences, self.shape.context)
        found = shared_groups(self._tables.numpy(), lengths, BLOCK_SIZE, self.heads, _ALWAYS)
        assert found is not None, "a shape with common blocks"
        groups = torch.from_numpy(found).to(self._q.device)

        def call() -> torch.Tensor:
            plan = plan_parts(self._starts, self._lengths, groups, self.heads)
            step = self._step(plan)
            results = [cascade_attention_triton(self._q, keys, values, step) for keys, values in self._caches]
            return results[-1]

        return call

    def _step(self, plan: AttentionPlan | CascadePlan) -> AttentionStep:
        return AttentionStep(
            self._starts, self._lengths, self._device_tables, self._scale, plan=plan, slopes=self._slopes
        )

    def row(self, name: str, call: Callable[[], torch.Tensor]) -> Row:
        shape, heads = self.shape, self.heads
        token_bytes = 2 * heads.kv_heads * heads.head_size * heads.dtype.itemsize
        moved = shape.stored * token_bytes + 2 * self._q.nbytes
        flops = shape.flops(heads)
        return Row(name, f"{shape} x{self.layers}", self.layers * moved, self.layers * flops, call)


def attention_probes(
    device: torch.device,
    heads: AttentionHeads = LLAMA_HEADS,
    plain: Sequence[Shape] = (*DECODE, *PREFILL),
    shared: Sequence[Shape] = SHARED,
    sloped: Sequence[Shape] = SLOPED,
) -> Iterator[Probe]:
    """Both rows of a shared shape have the floor of reading the common blocks once."""
    for shape in plain:
        name = "attention decode" if shape.queries == 1 else "attention prefill"
        yield Probe(f"{name}, {shape}", partial(_plain_row, name, shape, heads, device))
    for shape in sloped:
        name = "attention ALiBi"
        yield Probe(f"{name}, {shape}", partial(_plain_row, name, shape, heads, device, sloped=True))
    for shape in shared:
        name = "attention shared, plain"
        yield Probe(f"{name}, {shape}", partial(_plain_row, name, shape, heads, device))
        name = "attention shared, cascade"
        yield Probe(f"{name}, {shape}", partial(_cascade_row, name, shape, heads, device))


def _plain_row(name: str, shape: Shape, heads: AttentionHeads, device: torch.device, sloped: bool = False) -> Row:
    work = Work(shape, heads, device, sloped)
    return work.row(name, work.plain)


def _cascade_row(name: str, shape: Shape, heads: AttentionHeads, device: torch.device) -> Row:
    work = Work(shape, heads, device)
    return work.row(name, work.cascade())


def cascade_costs(
    seconds: Callable[[Callable[[], object]], float],
    device: torch.device,
    heads: AttentionHeads = LLAMA_HEADS,
    sequences: int = 64,
    long: int = 4096,
) -> CascadeCosts:
    """The two numbers of the break-even on this card; seconds: how long a call takes. One block in common gains
    nothing, so it shows what a cascade costs; `long` tokens in common show what a read saved is worth."""
    little, much = (Work(Shape(sequences, 1, shared + 256, shared), heads, device) for shared in (BLOCK_SIZE, long))
    extra = (seconds(little.cascade()) - seconds(little.plain)) / little.layers
    gained = (seconds(much.plain) - seconds(much.cascade())) / much.layers
    saved = (sequences - 1) * long * 2 * heads.kv_heads * heads.head_size * heads.dtype.itemsize
    return CascadeCosts(reread_rate=saved / max(gained + extra, 1e-9), extra_seconds=extra)
