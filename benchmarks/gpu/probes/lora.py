"""Batched LoRA on all seven modules of Llama 3.1 8B: shrinks, expands, both, and the consumers that expand on the way.

A call does one layer after another, as a step does, on weights that together are larger than the card's L2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch

from gpu.measure import Probe, Row
from multiflora_kernels.activation import silu_and_mul
from multiflora_kernels.lora.fused_linear import FullDelta, ShrunkDelta
from multiflora_kernels.lora.launch import (
    expand_triton,
    expand_triton_,
    shrink_triton,
    shrunk_empty,
)
from multiflora_kernels.lora.tiles import (
    LoraTiles,
    build_tiles,
    fill_table,
    static_tiles,
    table_entries,
)
from multiflora_kernels.rms_norm import add_rms_norm
from multiflora_kernels.rope.rope_and_kv import rope_and_write_kv
from multiflora_kernels.rope.step import RopeStep

_BEYOND_L2 = 256 << 20
_MOST_LAYERS = 32
_BLOCK_SIZE = 16

Projection = tuple[int, tuple[int, ...]]
"""Columns of x, and the columns of y of each linear that the projection stacks."""

LLAMA_LAYER: tuple[Projection, ...] = (
    (4096, (4096, 1024, 1024)),
    (4096, (4096,)),
    (4096, (14336, 14336)),
    (14336, (4096,)),
)


@dataclass(frozen=True)
class Load:
    """adapters of one rank, each with `tokens` tokens."""

    adapters: int
    tokens: int
    rank: int

    def __str__(self) -> str:
        return f"N={self.adapters} tokens={self.tokens} rank={self.rank}"


LOADS = [Load(n, tokens, rank) for rank in (16, 64) for n in (1, 8, 32, 64, 128) for tokens in (1, 64)]


@dataclass(frozen=True)
class _Site:
    a: torch.Tensor
    b: torch.Tensor
    offsets: torch.Tensor
    ranks: torch.Tensor
    max_rank: int
    magnitude: None = None


class _Product:
    """One projection of one layer: its adapters, x, y, and the rank values between them."""

    def __init__(
        self, projection: Projection, load: Load, tiles: LoraTiles, dtype: torch.dtype, device: torch.device
    ) -> None:
        k, widths = projection
        rows, tokens = load.adapters * load.rank, load.adapters * load.tokens
        offsets = torch.arange(0, rows, load.rank, dtype=torch.int32, device=device)
        ranks = torch.full_like(offsets, load.rank)
        highest = -(-load.rank // 16) * 16
        self.sites = tuple(
            _Site(_random(rows, k, dtype, device), _random(rows, n, dtype, device), offsets, ranks, highest)
            for n in widths
        )
        self.columns = tuple(pairwise(accumulate(widths, initial=0)))
        self.tiles, self.load, self.width = tiles, load, sum(widths)
        self.x = _random(tokens, k, dtype, device)
        self.y = torch.zeros(tokens, self.width, device=device, dtype=dtype)
        self.values = shrunk_empty(self.x, self.sites, tiles)

    @property
    def shrink_bytes(self) -> int:
        """x once, whatever the number of sites."""
        return self.x.nbytes + sum(site.a.nbytes for site in self.sites)

    @property
    def expand_bytes(self) -> int:
        """y is read and written."""
        return 2 * self.y.nbytes + sum(site.b.nbytes for site in self.sites)

    @property
    def half_flops(self) -> tuple[float, float]:
        """Of the shrink and of the expand."""
        pairs = 2.0 * self.x.shape[0] * self.load.rank
        return pairs * self.x.shape[1] * len(self.sites), pairs * self.width

    def shrink(self) -> None:
        shrink_triton(self.x, self.sites, self.tiles, self.values)

    def expand(self) -> None:
        expand_triton_(self.y, self.values, self.sites, self.columns, self.tiles, None)

    def both(self) -> None:
        self.shrink()
        self.expand()


class _Work:
    """The layers of a load. is_graph: with tiles as a graph has them."""

    def __init__(
        self,
        load: Load,
        layer: Sequence[Projection],
        dtype: torch.dtype,
        device: torch.device,
        head_size: int,
        *,
        is_graph: bool,
    ) -> None:
        self.load, self._head_size = load, head_size
        tiles = _tiles(load, device, is_graph)
        weights = load.adapters * load.rank * sum(k * len(n) + sum(n) for k, n in layer) * dtype.itemsize
        self.layers = max(1, min(_MOST_LAYERS, _BEYOND_L2 // weights)) if device.type == "cuda" else 1
        self.products = [
            _Product(projection, load, tiles, dtype, device) for _ in range(self.layers) for projection in layer
        ]

    def shrunk(self) -> _Work:
        """Itself, with the values that an expand reads."""
        for product in self.products:
            product.shrink()
        return self

    def row(self, name: str, kind: Callable[[_Product], None], shrinks: bool, expands: bool) -> Row:
        num_bytes = sum(shrinks * p.shrink_bytes + expands * p.expand_bytes for p in self.products)
        flops = sum(shrinks * p.half_flops[0] + expands * p.half_flops[1] for p in self.products)
        return self._named(name, num_bytes, flops, [partial(kind, product) for product in self.products])

    def rope(self, name: str, kind: Callable[[_Product, _Rope], None]) -> Row:
        heads = [p for p in self.products if len(p.sites) == 3]
        calls = [partial(kind, p, _Rope(p, self._head_size)) for p in heads]
        return self._named(name, sum(p.expand_bytes for p in heads), sum(p.half_flops[1] for p in heads), calls)

    def activation(self, name: str) -> Row:
        gates = [p for p in self.products if len(p.sites) == 2]
        num_bytes = sum(p.expand_bytes - p.y.nbytes // 2 for p in gates)
        calls = [partial(silu_and_mul, p.y, _delta(p)) for p in gates]
        return self._named(name, num_bytes, sum(p.half_flops[1] for p in gates), calls)

    def norm(self, name: str) -> Row:
        rows = [p for p in self.products if len(p.sites) == 1]
        weight = torch.ones_like(rows[0].y[0])
        residual = torch.zeros_like(rows[0].y)
        num_bytes = sum(4 * p.y.nbytes + 4 * p.y.numel() for p in rows)
        calls = [partial(add_rms_norm, p.y, residual, weight, 1e-5, _share(p)) for p in rows]
        return self._named(name, num_bytes, 0.0, calls)

    def _named(self, name: str, num_bytes: float, flops: float, calls: Sequence[Callable[[], object]]) -> Row:
        return Row(name, f"{self.load} x{self.layers}", float(num_bytes), flops, lambda: [call() for call in calls])


class _Rope:
    """What RoPE and the KV write need beside the product of q, k and v: a place for each token."""

    def __init__(self, product: _Product, head_size: int) -> None:
        self.delta, device = _delta(product), product.y.device
        self.head_size = head_size
        self.heads = [(end - first) // head_size for first, end in product.columns]
        tokens = len(product.y)
        places = torch.arange(tokens, device=device)
        cos, sin = torch.rand(2, tokens, head_size // 2, device=device)
        self.rope = RopeStep(cos, sin, places, places)
        shape = (2, -(-tokens // _BLOCK_SIZE), self.heads[1], _BLOCK_SIZE, head_size)
        self.caches = torch.empty(shape, dtype=product.y.dtype, device=device)

    def run(self, y: torch.Tensor, delta: ShrunkDelta | None) -> None:
        q, k, v = torch.split(y.view(len(y), -1, self.head_size), self.heads, dim=1)
        keys, values = self.caches
        rope_and_write_kv(q, k, v, keys, values, self.rope, None, delta)


def _rope_folded(product: _Product, rope: _Rope) -> None:
    rope.run(product.y, rope.delta)


def _rope_apart(product: _Product, rope: _Rope) -> None:
    rope.delta.add_to_(product.y)
    rope.run(product.y, None)


def _random(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.randn(rows, columns, device=device).to(dtype)


def _delta(product: _Product) -> ShrunkDelta:
    product.shrink()
    return ShrunkDelta(product.values, product.sites, product.columns, product.tiles)


def _share(product: _Product) -> FullDelta:
    (site,), values = product.sites, torch.empty_like(product.y, dtype=torch.float32)
    product.shrink()
    expand_triton(values, product.values, site, product.tiles)
    return FullDelta(values, site, product.tiles)


_PLAIN: dict[str, Callable[[_Work, str], Row]] = {
    "lora shrink": lambda work, name: work.row(name, _Product.shrink, shrinks=True, expands=False),
    "lora expand": lambda work, name: work.shrunk().row(name, _Product.expand, shrinks=False, expands=True),
    "lora": lambda work, name: work.row(name, _Product.both, shrinks=True, expands=True),
}
_IN_A_GRAPH: dict[str, Callable[[_Work, str], Row]] = {
    "lora in rope": lambda work, name: work.rope(name, _rope_folded),
    "lora, then rope": lambda work, name: work.rope(name, _rope_apart),
    "lora in the activation": _Work.activation,
    "lora share in the residual norm": _Work.norm,
}
"""What a decode graph runs in place of an expand: a consumer reads y anyway. The floor is that of all it does. RoPE
stands beside what it would be with a launch of its own for the expand."""


def lora_probes(
    device: torch.device,
    layer: Sequence[Projection] = LLAMA_LAYER,
    loads: Sequence[Load] = LOADS,
    dtype: torch.dtype = torch.bfloat16,
    head_size: int = 128,
) -> Iterator[Probe]:
    """With one token, the rows of a graph as well."""
    for load in loads:
        kinds = [(name, kind, False) for name, kind in _PLAIN.items()]
        if load.tokens == 1:
            kinds += [(name, kind, True) for name, kind in _IN_A_GRAPH.items()]
        for name, kind, is_graph in kinds:
            work = partial(_Work, load, layer, dtype, device, head_size, is_graph=is_graph)
            yield Probe(f"{name}, {load}", partial(_made, work, name, kind))


def _made(work: Callable[[], _Work], name: str, kind: Callable[[_Work, str], Row]) -> Row:
    return kind(work(), name)


def _tiles(load: Load, device: torch.device, is_graph: bool) -> LoraTiles:
    starts, slots = [load.tokens * i for i in range(load.adapters + 1)], list(range(load.adapters))
    if not is_graph:
        return build_tiles(starts, slots, lambda table: torch.from_numpy(table).to(device))
    table = np.zeros(table_entries(starts[-1], len(slots)), np.int32)
    fill_table(table, starts, slots, starts[-1])
    return static_tiles(torch.from_numpy(table).to(device), starts[-1], len(slots))
