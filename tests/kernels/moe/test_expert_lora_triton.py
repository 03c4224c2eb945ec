"""LoRA on experts in Triton beside a loop over rows: interpreted at small shapes, compiled on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tests.kernels.lora.cases import Site, make_site

from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.moe.expert_lora import lora_experts_reference_
from multiflora_kernels.moe.expert_lora_triton import lora_experts_triton_
from multiflora_kernels.moe.experts import sort_by_expert
from multiflora_kernels.moe.routing import Routing, route
from multiflora_kernels.moe.tiles import tile_experts

EXPERTS, SLOTS = 5, 8
RANKS = [8, 0, 3, 21, 5, 0]  # of each expert, and of the one that rows of others have
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
Sites = list[dict[int, Site]]


@dataclass(frozen=True)
class Addresses:
    """Of the adapters that are there, as their pool has them."""

    addresses: torch.Tensor
    max_rank: int


def adapters(
    slots: tuple[int, ...],
    k: int,
    columns: list[tuple[int, int]],
    device: torch.device,
    dtype: torch.dtype,
    *,
    dora: bool,
) -> Sites:
    """By slot, of each linear; the last adapter has none on the last, the first no magnitudes."""
    found = [
        {slot: make_site(k, end - first, RANKS, dora and slot != slots[0]).to(device, dtype) for slot in slots}
        for first, end in columns
    ]
    if len(columns) > 1:
        del found[-1][slots[-1]]
    return found


def addresses(by_slot: dict[int, Site], device: torch.device) -> Addresses:
    table = torch.zeros(SLOTS, 5, dtype=torch.int64)
    for slot, site in by_slot.items():
        parts = (site.a, site.b, site.offsets, site.ranks, site.magnitude)
        table[slot] = torch.tensor([0 if part is None else part.data_ptr() for part in parts])
    return Addresses(table.to(device), 32)


def row_slots(starts: list[int], slots: list[int]) -> torch.Tensor:
    owners = torch.full((starts[-1],), -1, dtype=torch.int32)
    for first, end, slot in zip(starts, starts[1:], slots, strict=False):
        owners[first:end] = slot
    return owners


def check(
    sites: Sites, columns: list[tuple[int, int]], routing: Routing, starts: list[int], slots: list[int], k: int,
    dtype: torch.dtype, device: torch.device, *, has_row_for_token: bool, rows: int = 16,
) -> None:  # fmt: skip
    tokens, top_k = routing.experts.shape
    x = torch.randn(tokens if has_row_for_token else tokens * top_k, k).to(dtype)
    y = torch.randn(tokens * top_k, columns[-1][1]).to(dtype)
    sorted_rows = sort_by_expert(routing, EXPERTS)
    expected = y.double()[sorted_rows.order]
    local = [{slot: site.to(torch.device("cpu"), torch.float64) for slot, site in by.items()} for by in sites]
    x_sorted = x.double()[sorted_rows.tokens if has_row_for_token else sorted_rows.order]
    lora_experts_reference_(expected, x_sorted, local, columns, sorted_rows, LoraSegments.build(starts, slots))
    found = y.to(device)
    lora_experts_triton_(
        found, x.to(device), [addresses(by_slot, device) for by_slot in sites], columns,
        tile_experts(routing.experts.to(device), EXPERTS, rows), row_slots(starts, slots).to(device),
        has_row_for_token=has_row_for_token,
    )  # fmt: skip
    result, before = found.cpu()[sorted_rows.order], y[sorted_rows.order]
    error = (result.double() - expected).abs().max().item()
    assert error <= TOLERANCES[dtype] * max(1.0, expected.abs().max().item()), error
    untouched = (expected == before.double()).all(1)
    assert torch.equal(result[untouched], before[untouched]), "rows of the base keep every bit"
    assert not untouched.all()


@pytest.mark.parametrize(
    ("dtype", "dora", "has_row_for_token"),
    [(torch.float32, False, True), (torch.float32, True, False), (torch.bfloat16, True, True)],
)
@pytest.mark.parametrize(("starts", "slots"), [([0, 1], [4]), ([3, 9, 11, 20], [7, 1, 4])])
def test_each_row_gets_its_adapter_of_its_expert(kernel_device, starts, slots, dtype, dora, has_row_for_token):
    """Among adapters without experts, of which there is nothing in the table; ranks and widths that fill no tile."""
    columns = [(0, 70), (70, 94)] if has_row_for_token else [(0, 40)]
    k = 72 if has_row_for_token else 530
    sites = adapters((1, 4), k, columns, kernel_device, dtype, dora=dora)
    routing = route(torch.randn(starts[-1], EXPERTS), 2 if len(slots) > 1 else EXPERTS, is_normalised=True)
    check(sites, columns, routing, starts, slots, k, dtype, kernel_device, has_row_for_token=has_row_for_token)


def test_large_tiles(kernel_device):
    """Of three adapters and the base: all are in one tile."""
    columns = [(0, 24)]
    sites = adapters((0, 5, 6), 40, columns, kernel_device, torch.float16, dora=False)
    logits = torch.randn(50, EXPERTS)
    logits[:, 3] += 100.0
    check(
        sites, columns, route(logits, 1, is_normalised=False), [9, 20, 31, 50], [0, 5, 6], 40, torch.float16,
        kernel_device, has_row_for_token=True, rows=64,
    )  # fmt: skip


def test_a_table_is_read_anew(kernel_device):
    """As a graph does that is replayed when another adapter has the slot, and when none has."""
    (first,), (second,) = (adapters((2,), 40, [(0, 24)], kernel_device, torch.float32, dora=False) for _ in range(2))
    site = addresses(first, kernel_device)
    routing = route(torch.randn(4, EXPERTS), 3, is_normalised=True)
    tiles = tile_experts(routing.experts.to(kernel_device), EXPERTS, 16)
    x, owners = torch.randn(4, 40).to(kernel_device), torch.full((4,), 2, dtype=torch.int32).to(kernel_device)

    def run() -> torch.Tensor:
        y = torch.zeros(12, 24).to(kernel_device)
        lora_experts_triton_(y, x, [site], [(0, 24)], tiles, owners, has_row_for_token=True)
        return y

    of_first = run()
    site.addresses.copy_(addresses(second, kernel_device).addresses)
    of_second = run()
    site.addresses.zero_()
    assert not torch.equal(of_first, of_second)
    assert (run() == 0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("has_row_for_token", [True, False])
def test_on_a_gpu(dtype, rows, has_row_for_token):
    """Fresh random inputs at serving size."""
    torch.seed()
    columns, device = [(0, 768), (768, 1536)] if has_row_for_token else [(0, 2048)], torch.device("cuda")
    sites = adapters((1, 2, 7), 2048, columns, device, dtype, dora=True)
    routing = route(torch.randn(300, EXPERTS), 2, is_normalised=True)
    starts, slots = [50, 130, 131, 290, 300], [1, 2, 7, 3]
    check(
        sites, columns, routing, starts, slots, 2048, dtype, device, has_row_for_token=has_row_for_token, rows=rows
    )  # fmt: skip
