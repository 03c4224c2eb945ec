"""Consumers that add the adapters' delta as they read a product, against the delta added first, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.kernels.lora.cases import Site, loop, stacked

from gpu.fake.card import fake_card
from multiflora_kernels.activation import (
    SILU,
    gate_triton,
    gelu_and_mul,
    gelu_and_mul_reference,
    silu_and_mul,
    silu_and_mul_reference,
)
from multiflora_kernels.layer_norm import add_layer_norm, layer_norm
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.lora import fused_linear
from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.lora.fused_linear import (
    FullDelta,
    ShrunkDelta,
    completed,
    linear_with_full_delta,
    linear_with_lora,
)
from multiflora_kernels.lora.tiles import TILE_FIELDS, fill_table, table_entries
from multiflora_kernels.rms_norm import add_rms_norm, add_rms_norm_reference, add_rms_norm_triton

# 1 / inf is the 0 that is wanted.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RANKS = [0, 1, 8, 128, 16, 33, 20]
STARTS, SLOTS, ROWS = [2, 3, 4, 5, 9, 10, 28], [1, 3, 0, 5, 6, 4], 30


def static_segments(
    device: torch.device, starts: list[int] = STARTS, slots: list[int] = SLOTS, *, is_stale: bool = False
) -> LoraSegments:
    """is_stale: with a tile of another batch behind those in use: who goes there gives a base row an adapter."""
    host = np.zeros(table_entries(ROWS, 8), np.int32)
    fill_table(host, starts, slots, ROWS)
    if is_stale:
        tiles = host[:-ROWS].reshape(-1, TILE_FIELDS)
        tiles[tiles[0, 4] :, :3] = 0, 1, 3
    return LoraSegments.static(torch.from_numpy(host).to(device), ROWS, 8)


class Product:
    """A product with adapters, and what it should be: `expected`, float64 [T, N], rounded once to the dtype."""

    def __init__(self, device: torch.device, dtype: torch.dtype, k: int, widths: list[int], *, dora: bool = False):
        sites, columns = stacked(k, widths, ranks=RANKS, dora=dora)
        self.sites, self.columns = [site.to(device, dtype) for site in sites], columns
        self.x, self.bias = torch.randn(ROWS, k).to(device, dtype), torch.randn(columns[-1][1]).to(device, dtype)
        self.weight = DenseWeight((torch.randn(columns[-1][1], k) * k**-0.5).to(device, dtype))
        base = F.linear(self.x, self.weight.tensor, self.bias).cpu()
        host: list[Site] = [site.to(torch.device("cpu"), dtype) for site in self.sites]
        plain = LoraSegments.build(STARTS, SLOTS)
        self.expected = loop(base, self.x.cpu(), host, columns, plain, self.bias.cpu()).to(dtype).double()

    def parts(self, segments: LoraSegments) -> tuple[torch.Tensor, ShrunkDelta | None]:
        return linear_with_lora(self.x, self.weight, self.bias, self.sites, self.columns, segments)

    def delta(self, segments: LoraSegments) -> tuple[torch.Tensor, FullDelta | None]:
        (site,) = self.sites
        return linear_with_full_delta(self.x, self.weight, self.bias, site, segments)


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """A few roundings: of the product, the activation or the sum, and the result."""
    eps = torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=4 * eps, atol=1e-4 if eps < 1e-6 else 2e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [24, 300])
def test_activation(kernel_device, dtype, width):
    product = Product(kernel_device, dtype, 40, [width, width])
    y, delta = product.parts(static_segments(kernel_device))
    assert delta is not None
    before = y.clone()
    gated, plain = silu_and_mul(y, delta), gate_triton(y, SILU)
    assert_near(gated, silu_and_mul_reference(product.expected))
    assert torch.equal(y, before)
    for rows in (slice(STARTS[0]), slice(STARTS[-1], None)):
        assert torch.equal(gated[rows], plain[rows])


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(kernel_device, approximate):
    product = Product(kernel_device, torch.float32, 40, [24, 24])
    y, delta = product.parts(static_segments(kernel_device))
    assert_near(gelu_and_mul(y, approximate, delta), gelu_and_mul_reference(product.expected, approximate))


def test_activation_of_which_only_one_half_has_a_site(kernel_device):
    product = Product(kernel_device, torch.float32, 40, [24, 24])
    segments = static_segments(kernel_device)
    y, delta = linear_with_lora(
        product.x, product.weight, product.bias, [None, product.sites[1]], product.columns, segments
    )
    expected = product.expected.clone()
    expected[:, :24] = product.weight.matmul(product.x, product.bias).cpu().double()[:, :24]
    assert_near(silu_and_mul(y, delta), silu_and_mul_reference(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [40, 130])
def test_residual_norm(kernel_device, dtype, size):
    product = Product(kernel_device, dtype, 600, [size])
    y, delta = product.delta(static_segments(kernel_device))
    assert delta is not None
    # Nothing is written there: neither for rows of the base nor for an adapter without a rank at the site.
    delta.values[[*range(STARTS[0]), 4, *range(STARTS[-1], ROWS)]] = torch.nan
    residual, weight = torch.randn(ROWS, size).to(kernel_device, dtype), torch.rand(size).to(kernel_device, dtype)
    normed, total = add_rms_norm(y, residual, weight, 1e-5, delta)
    plain = add_rms_norm_triton(y, residual, weight, 1e-5)
    for rows in (slice(STARTS[0]), slice(STARTS[-1], None)):
        assert torch.equal(total[rows], plain[1][rows])
    expected = add_rms_norm_reference(product.expected, residual.cpu().double(), weight.cpu().double(), 1e-5)
    assert_near(total, expected[1])
    assert_near(normed, expected[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_consumer_without_a_kernel_completes_the_product_first(kernel_device, dtype):
    product = Product(kernel_device, dtype, 40, [72])
    y, delta = product.delta(static_segments(kernel_device))
    assert delta is not None
    unwritten = [*range(STARTS[0]), 4, *range(STARTS[-1], ROWS)]
    delta.values[unwritten] = torch.nan
    complete = completed(y, delta)
    assert_near(complete, product.expected)
    assert torch.equal(complete[unwritten], y[unwritten])
    residual, weight, bias = (torch.randn_like(y), *torch.randn(2, 72).to(y))
    normed, total = add_layer_norm(y, residual, weight, bias, 1e-5, delta)
    assert torch.equal(total, complete + residual)
    assert torch.equal(normed, layer_norm(total, weight, bias, 1e-5))
    assert completed(y, None) is y


def test_what_scales_all_of_the_product_is_done_at_once(kernel_device):
    product = Product(kernel_device, torch.float32, 40, [24, 24], dora=True)
    y, delta = product.parts(static_segments(kernel_device))
    assert delta is None
    assert_near(y, product.expected)


def test_outside_a_graph_nothing_is_left_over():
    product = Product(torch.device("cpu"), torch.float32, 40, [24, 24])
    y, delta = product.parts(LoraSegments.build(STARTS, SLOTS))
    assert delta is None
    assert_near(y[: STARTS[-1]], product.expected[: STARTS[-1]])


def test_added_by_a_launch_of_its_own_it_is_the_same(kernel_device):
    product = Product(kernel_device, torch.float32, 40, [24, 24, 8])
    y, delta = product.parts(static_segments(kernel_device))
    delta.add_to_(y)
    assert_near(y, product.expected)


@pytest.mark.parametrize(("is_static", "dora"), [(False, False), (False, True), (True, True)])
def test_where_no_delta_is_left_the_product_is_complete(kernel_device, is_static, dora):
    device = kernel_device if is_static else torch.device("cpu")
    product = Product(device, torch.float32, 40, [24], dora=dora)
    y, delta = product.delta(static_segments(device) if is_static else LoraSegments.build(STARTS, SLOTS))
    assert delta is None
    assert_near(y[: STARTS[-1]], product.expected[: STARTS[-1]])


@pytest.mark.gpu
def test_a_graph_of_two_streams_serves_other_adapters_on_a_gpu(kernel_device):
    product = Product(kernel_device, torch.bfloat16, 4096, [14336, 14336])
    segments = static_segments(kernel_device, [ROWS], [])
    assert segments.tiles is not None
    silu_and_mul(*product.parts(segments))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = silu_and_mul(*product.parts(segments))
    segments.tiles.table.copy_(static_segments(kernel_device).tiles.table)
    graph.replay()
    expected = silu_and_mul_reference(product.expected)
    torch.testing.assert_close(out.cpu().double(), expected, rtol=2**-6, atol=2**-5 * expected.abs().max().item())
    first = out.clone()
    graph.replay()
    assert torch.equal(out, first)


@pytest.mark.parametrize("is_beside", [True, False])
def test_the_second_stream_can_be_switched_off(is_beside, monkeypatch):
    monkeypatch.setattr(fused_linear, "_USES_SIDE_STREAM", is_beside)
    fused_linear._side_stream.cache_clear()
    with fake_card(compiles=False):
        streams = []
        fused_linear._beside(
            torch.device("cuda"), lambda: streams.append(torch.cuda.current_stream()), lambda: torch.ones(1)
        )
        assert (streams[0] is not torch.cuda.current_stream()) == is_beside
    fused_linear._side_stream.cache_clear()
