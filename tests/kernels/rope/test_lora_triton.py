"""Rotation and cache write that add the adapters' delta on the way, against the delta added first, in float64."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.lora.test_fused_linear import ROWS, STARTS, Product, assert_near, static_segments
from tests.kernels.rope.test_rope_and_kv import POSITIONS, normed, rotated, split, tables

from multiflora_kernels.lora.fused_linear import linear_with_lora
from multiflora_kernels.rope.qk_norm import QKNorm
from multiflora_kernels.rope.rope_and_kv import fold_into_rope, rope_and_write_kv
from multiflora_kernels.rope.step import RopeStep
from multiflora_kernels.rope.triton import rope_and_write_kv_triton

BLOCK_SIZE = 16
SLOTS = torch.arange(ROWS) * 5 % (4 * BLOCK_SIZE)
SLOTS[[1, 3, 6, 27, 29]] = -1
"""Base rows, rows of adapters' tiles of one and of several, and rows that fill up a batch."""


class Layer:
    """What is around a product of q, k and v; caches hold 7 before."""

    def __init__(self, product: Product, heads: int, kv_heads: int, size: int, rotary: int, *, is_normed: bool) -> None:
        self.device, self.dtype = product.x.device, product.x.dtype
        self.heads, self.kv_heads, self.size, self.rotary = heads, kv_heads, size, rotary
        self.positions = torch.randint(POSITIONS, (ROWS,))
        weights = [torch.randn(size).to(self.device, self.dtype) for _ in range(2)]
        self.norms = QKNorm(*weights, 1e-5) if is_normed else None

    def split(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return split(y.view(ROWS, self.heads + 2 * self.kv_heads, self.size), self.heads, self.kv_heads)

    def run(self, op, y, *delta) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(q, key cache, value cache)."""
        shape = (4, self.kv_heads, BLOCK_SIZE, self.size)
        caches = [torch.full(shape, 7.0, dtype=self.dtype, device=self.device) for _ in range(2)]
        return op(*self.split(y), *caches, self.rope(), self.norms, *delta), *caches

    def rope(self) -> RopeStep:
        return RopeStep(*(table.to(self.device) for table in (*tables(self.rotary), self.positions, SLOTS)))

    def expected(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(q, k, v) of y [T, N], which has the adapters' share, in float64."""
        q, k, v = (part.double() for part in self.split(y))
        if self.norms is not None:
            q, k = normed(q, self.norms.q.cpu(), 1e-5), normed(k, self.norms.k.cpu(), 1e-5)
        return rotated(q, self.positions, self.rotary), rotated(k, self.positions, self.rotary), v


NOT_QUANTISED = torch.empty(0)


def written(cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows that have a slot, what the cache holds there); no other entry has changed."""
    rows = (SLOTS >= 0).nonzero()[:, 0]
    flat = cache.cpu().transpose(1, 2).flatten(0, 1)
    untouched = torch.ones(len(flat), dtype=torch.bool)
    untouched[SLOTS[rows]] = False
    assert (flat[untouched] == 7.0).all()
    return rows, flat[SLOTS[rows]]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """A few roundings of the largest: what is rounded may cancel in the rotation."""
    error = (actual.cpu().double() - expected).abs().max()
    assert error <= 4 * max(torch.finfo(actual.dtype).eps, 1e-6) * expected.abs().max(), error


def product_of(device, dtype, heads: int, kv_heads: int, size: int) -> Product:
    return Product(device, dtype, 40, [heads * size, kv_heads * size, kv_heads * size])


@pytest.mark.parametrize(
    ("dtype", "heads", "kv_heads", "size", "is_normed"),
    [
        (torch.float32, 12, 3, 64, False),
        (torch.float32, 3, 1, 128, True),
        (torch.bfloat16, 3, 1, 128, True),
        (torch.bfloat16, 2, 2, 32, False),
        (torch.float16, 2, 2, 32, True),
    ],
)
def test_the_delta_is_added_before_the_rotation(kernel_device, dtype, heads, kv_heads, size, is_normed):
    product = product_of(kernel_device, dtype, heads, kv_heads, size)
    layer = Layer(product, heads, kv_heads, size, size, is_normed=is_normed)
    y, delta = product.parts(static_segments(kernel_device, is_stale=True))
    folded = fold_into_rope(y, delta, size, size, NOT_QUANTISED)
    assert folded is delta is not None
    plain, added = layer.run(rope_and_write_kv_triton, y.clone()), y.clone()
    values = y[:, (heads + kv_heads) * size :].clone()
    q, keys, vals = layer.run(rope_and_write_kv, y, folded)
    assert torch.equal(y[:, (heads + kv_heads) * size :], values), "what only goes to the cache stays as it was"

    delta.add_to_(added)
    apart = layer.run(rope_and_write_kv_triton, added)
    for folded_result, result in zip((q, keys, vals), apart, strict=True):
        same = (folded_result == result).float().mean()
        assert same > (0.97 if dtype != torch.float32 else 0), "rounded where the product would have been stored"

    expected_q, expected_k, expected_v = layer.expected(product.expected)
    close(q, expected_q)
    for cache, expected in ((keys, expected_k), (vals, expected_v)):
        rows, found = written(cache)
        close(found, expected[rows])

    base = torch.ones(ROWS, dtype=torch.bool)
    base[STARTS[0] : STARTS[-1]] = False
    if is_normed and kernel_device.type == "cuda":
        return  # another kernel's warps sum the squares of a head in another order
    assert torch.equal(q.cpu()[base], plain[0].cpu()[base])
    for cache, other in ((keys, plain[1]), (vals, plain[2])):
        rows, found = written(cache)
        assert torch.equal(found[base[rows]], written(other)[1][base[rows]])


@pytest.mark.parametrize(("size", "rotary", "present"), [(80, 32, 3), (80, 80, 3), (64, 32, 3), (64, 64, 2)])
def test_what_does_not_fold_is_added_at_once(kernel_device, size, rotary, present):
    """Heads of which a part is rotated, or of a size that is no power of two; adapters without one of q, k and v."""
    product = product_of(kernel_device, torch.float32, 4, 2, size)
    sites = [*product.sites[:present], *[None] * (3 - present)]
    y, delta = linear_with_lora(
        product.x, product.weight, product.bias, sites, product.columns, static_segments(kernel_device)
    )
    base = y.clone()
    assert fold_into_rope(y, delta, size, rotary, NOT_QUANTISED) is None
    end = product.columns[present - 1][1]
    assert_near(y[:, :end], product.expected[:, :end])
    assert torch.equal(y[:, end:], base[:, end:])


def test_nothing_folds_into_the_write_of_quantised_keys(kernel_device):
    product = product_of(kernel_device, torch.float32, 2, 2, 64)
    y, delta = product.parts(static_segments(kernel_device))
    assert fold_into_rope(y, delta, 64, 64, torch.empty(0, dtype=torch.int8)) is None
    assert_near(y, product.expected)


def test_nothing_is_nothing():
    y = torch.ones(2, 3)
    assert fold_into_rope(y, None, 64, 64, NOT_QUANTISED) is None
    assert (y == 1).all()


@pytest.mark.gpu
@pytest.mark.parametrize("is_normed", [False, True])
def test_a_graph_serves_other_adapters_on_a_gpu(kernel_device, is_normed):
    """Llama's heads in bfloat16, captured without adapters, replayed with seven of them."""
    heads, kv_heads, size = 32, 8, 128
    product = product_of(kernel_device, torch.bfloat16, heads, kv_heads, size)
    layer = Layer(product, heads, kv_heads, size, size, is_normed=is_normed)
    segments = static_segments(kernel_device, [ROWS], [])
    assert segments.tiles is not None
    shape = (4, kv_heads, BLOCK_SIZE, size)
    caches = [torch.full(shape, 7.0, dtype=torch.bfloat16, device=kernel_device) for _ in range(2)]
    rope = layer.rope()

    def work() -> torch.Tensor:
        y, delta = product.parts(segments)
        delta = fold_into_rope(y, delta, size, size, NOT_QUANTISED)
        return rope_and_write_kv(*layer.split(y), *caches, rope, layer.norms, delta)

    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        q = work()
    segments.tiles.table.copy_(static_segments(kernel_device).tiles.table)
    for cache in caches:
        cache.fill_(7.0)
    graph.replay()
    expected_q, expected_k, expected_v = layer.expected(product.expected)

    close(q, expected_q)
    for cache, expected in zip(caches, (expected_k, expected_v), strict=True):
        rows, found = written(cache)
        close(found, expected[rows])
    first = q.clone()
    graph.replay()
    assert torch.equal(q, first)
