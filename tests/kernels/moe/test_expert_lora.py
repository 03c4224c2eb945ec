"""LoRA on experts beside a loop over rows: adapters with and without it, experts without rows, DoRA, every path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.kernels.lora.cases import Site, make_site

from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.lora.tiles import build_tiles
from multiflora_kernels.moe.expert_lora import adapter_runs, lora_experts_, lora_experts_reference_
from multiflora_kernels.moe.experts import ExpertRows, sort_by_expert
from multiflora_kernels.moe.routing import Routing, route

EXPERTS, K, COLUMNS = 5, 40, [(0, 24), (24, 40)]
RANKS = [8, 0, 3, 16, 5, 0]  # of each expert, and of the one that rows of others have


def routed(tokens: int, top_k: int = 2) -> Routing:
    return route(torch.randn(tokens, EXPERTS), top_k, is_normalised=True)


def adapters(slots: tuple[int, ...], *, dora: bool = False) -> list[dict[int, Site]]:
    """By slot, of both linears; the last adapter has none on the second."""
    both = [{slot: make_site(K, end - first, RANKS, dora) for slot in slots} for first, end in COLUMNS]
    del both[1][slots[-1]]
    return both


def served(
    sites: list[dict[int, Site]], rows: ExpertRows, segments: LoraSegments
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(y before, y of the kernels, y of the loop)."""
    count = len(rows.tokens)
    y, x = torch.randn(count, COLUMNS[-1][1]), torch.randn(count, K)
    found, expected = y.clone(), y.double()
    runs = adapter_runs(rows, segments, {slot for by_slot in sites for slot in by_slot})
    lora_experts_(found, x, sites, COLUMNS, runs)
    lora_experts_reference_(expected, x.double(), sites, COLUMNS, rows, segments)
    return y, found, expected


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(
    ("starts", "slots"), [([0, 1], [4]), ([3, 9, 9, 30], [7, 1, 4]), ([0, 60], [1]), ([9, 9], [4])]
)
def test_each_row_gets_its_adapter_of_its_expert(path: str, starts: list[int], slots: list[int], dora: bool) -> None:
    torch.manual_seed(starts[-1])
    rows, segments = sort_by_expert(routed(starts[-1]), EXPERTS), LoraSegments.build(starts, slots)
    y, found, expected = served(adapters((1, 4), dora=dora), rows, segments)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-4)
    touched = {token for begin, end, slot in segments.spans() if slot in (1, 4) for token in range(begin, end)}
    others = torch.tensor([token not in touched or RANKS[expert] == 0 for token, expert in pairs(rows)])
    assert torch.equal(found[others], y[others]), "rows of the base and of other adapters stay as they are"
    assert others.all() or (found[~others, :24] != y[~others, :24]).any(1).all()


def pairs(rows: ExpertRows) -> list[tuple[int, int]]:
    return list(zip(rows.tokens.tolist(), rows.experts.tolist(), strict=True))


def test_experts_that_no_row_goes_to() -> None:
    torch.manual_seed(2)
    logits = torch.randn(12, EXPERTS) + torch.tensor([0.0, 0.0, 50.0, 0.0, 40.0])
    rows = sort_by_expert(route(logits, 2, is_normalised=False), EXPERTS)
    assert rows.counts == [0, 0, 12, 0, 12]
    _, found, expected = served(adapters((0, 1)), rows, LoraSegments.build([4, 7, 12], [1, 0]))
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-4)


def test_bfloat16_is_rounded_once() -> None:
    torch.manual_seed(3)
    rows, segments = sort_by_expert(routed(20), EXPERTS), LoraSegments.build([2, 11, 20], [1, 4])
    sites = [{s: site.to(torch.device("cpu"), torch.bfloat16) for s, site in by.items()} for by in adapters((1, 4))]
    y, x = torch.randn(40, 40).bfloat16(), torch.randn(40, K).bfloat16()
    found, expected = y.clone(), y.clone()
    lora_experts_(found, x, sites, COLUMNS, adapter_runs(rows, segments, {1, 4}))
    lora_experts_reference_(expected, x, sites, COLUMNS, rows, segments)
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-6)


def test_on_a_gpu_the_triton_kernels_take_the_runs(kernel_device: torch.device) -> None:
    """Which skip the rows of others, whose rank is 0."""
    torch.manual_seed(4)
    rows, segments = sort_by_expert(routed(7), EXPERTS), LoraSegments.build([2, 4, 7], [4, 1])
    there = replace(rows, tokens=rows.tokens.to(kernel_device), experts=rows.experts.to(kernel_device))
    on_device = replace(
        segments, tiles=build_tiles([2, 4, 7], [4, 1], lambda table: torch.from_numpy(table).to(kernel_device))
    )
    sites = [{s: site.to(kernel_device, torch.float32) for s, site in by.items()} for by in adapters((1, 4), dora=True)]
    y, x = torch.randn(14, 40), torch.randn(14, K)
    found, expected = y.to(kernel_device), y.double()
    runs = adapter_runs(there, on_device, {1, 4})
    assert all(run.tiles is not None for _, run in runs)
    lora_experts_(found, x.to(kernel_device), sites, COLUMNS, runs)
    local = [{s: site.to(torch.device("cpu"), torch.float64) for s, site in by.items()} for by in sites]
    lora_experts_reference_(expected, x.double(), local, COLUMNS, rows, segments)
    torch.testing.assert_close(found.cpu(), expected.float(), rtol=1e-5, atol=1e-4)


def test_adapters_that_have_none_cost_no_run() -> None:
    rows = sort_by_expert(routed(9), EXPERTS)
    assert not adapter_runs(rows, LoraSegments.build([0, 4, 9], [3, 5]), {1, 4})
    (run,) = adapter_runs(rows, LoraSegments.build([0, 4, 9], [3, 4]), {1, 4})
    assert run[0] == 4
    assert run[1].host_starts[-1] <= len(rows.tokens)
