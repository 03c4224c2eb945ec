"""Inputs for paged attention in which everything that must not be read holds NaN, and what must come out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from multiflora_kernels.attention.plan import AttentionPlan, CascadePlan, QueryBounds, plan_work
from multiflora_kernels.attention.quantised_cache import cache_shape, write_tokens
from multiflora_kernels.attention.step import AttentionStep
from multiflora_kernels.attention.tiles import AttentionHeads
from multiflora_kernels.attention.triton import paged_attention_triton


@dataclass
class Case:
    q: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    arguments: tuple[torch.Tensor, ...]
    scale: float

    @property
    def caches(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.arguments[0], self.arguments[1]

    def step(
        self,
        window: int | None = None,
        softcap: float | None = None,
        plan: AttentionPlan | CascadePlan | None = None,
        slopes: torch.Tensor | None = None,
    ) -> AttentionStep:
        starts, lengths, tables = self.arguments[2:]
        return AttentionStep(starts, lengths, tables, self.scale, window, softcap, plan, slopes)

    def to(self, device: torch.device) -> Case:
        """The same with what kernels take on `device`."""
        return replace(self, q=self.q.to(device), arguments=tuple(tensor.to(device) for tensor in self.arguments))


def make(lengths, queries, heads=4, kv_heads=2, size=32, block_size=16, dtype=torch.float32) -> Case:
    """Shuffled blocks; blocks of no sequence and entries past a length are NaN, table entries past it lead to one."""
    counts = [math.ceil(length / block_size) for length in lengths]
    spare = 3
    order = torch.randperm(sum(counts) + spare).tolist()
    k_cache, v_cache = (torch.full((len(order), kv_heads, block_size, size), math.nan, dtype=dtype) for _ in range(2))
    tables = torch.full((len(lengths), max(counts) + 2), order.pop(), dtype=torch.int32)
    keys, values = [], []
    for s, length in enumerate(lengths):
        key, value = (torch.randn(length, kv_heads, size).to(dtype) for _ in range(2))
        tables[s, : counts[s]] = torch.tensor([order.pop() for _ in range(counts[s])])
        positions = torch.arange(length)
        places = tables[s, positions // block_size].long(), slice(None), positions % block_size
        k_cache[places], v_cache[places] = key, value
        keys.append(key)
        values.append(value)
    starts = torch.tensor([0, *queries]).cumsum(0).int()
    q = torch.randn(sum(queries), heads + 3, size).to(dtype)[:, 1 : heads + 1]
    return Case(q, keys, values, (k_cache, v_cache, starts, torch.tensor(lengths).int(), tables), size**-0.5)


def stored(case: Case, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The case's caches as one of `dtype` keeps them."""
    caches = []
    for given in case.caches:
        blocks, _, block_size, _ = given.shape
        cache = torch.empty(cache_shape(*given.shape, dtype), dtype=dtype)
        write_tokens(cache, torch.arange(blocks * block_size), given.transpose(1, 2).flatten(0, 1))
        caches.append(cache)
    return caches[0], caches[1]


def loop(
    case: Case,
    window: int | None = None,
    softcap: float | None = None,
    slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """[T, Hq, D] float64, one query and one head after another."""
    out = torch.full(case.q.shape, math.nan, dtype=torch.float64)
    q = case.q.cpu().double()
    starts, lengths = case.arguments[2].tolist(), case.arguments[3].tolist()
    group = case.q.shape[1] // case.keys[0].shape[1]
    for s, length in enumerate(lengths):
        for t in range(starts[s], starts[s + 1]):
            position = length - (starts[s + 1] - t)
            first = 0 if window is None else max(0, position - window + 1)
            for h in range(case.q.shape[1]):
                key = case.keys[s][first : position + 1, h // group].double()
                scores = key @ q[t, h] * case.scale
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if slopes is not None:
                    scores = scores + slopes[h].double() * (torch.arange(first, position + 1) - position)
                if sinks is not None:
                    scores = torch.cat([scores, sinks[h : h + 1].double()])
                weights = torch.softmax(scores, 0)[: len(key)]
                out[t, h] = weights @ case.values[s][first : position + 1, h // group].double()
    return out


def plan_of(case: Case, window: int | None = None, bounds: QueryBounds | None = None) -> AttentionPlan:
    k_cache, _, starts, lengths, _ = case.arguments
    reads_codes = k_cache.dtype not in (torch.float32, torch.bfloat16, torch.float16)
    heads = AttentionHeads(case.q.shape[1], k_cache.shape[1], case.q.shape[2], case.q.dtype, reads_codes)
    return plan_work(starts, lengths, case.q.shape[0], heads, window, bounds)


def slopes_of(heads: int) -> torch.Tensor:
    """[heads] float32, each another: the first lets few keys count, the last nearly all."""
    return 2.0 ** -torch.arange(1, heads + 1).float()


def attend(
    case: Case,
    window: int | None = None,
    softcap: float | None = None,
    bounds: QueryBounds | None = None,
    sinks: torch.Tensor | None = None,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    there = None if slopes is None else slopes.to(case.q.device)
    step = case.step(window, softcap, plan_of(case, window, bounds), there)
    return paged_attention_triton(case.q, *case.caches, step, None if sinks is None else sinks.to(case.q.device))


TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of the largest expected value: what float32 promises; or the rounding of the result and of its weights."""


def check(actual: torch.Tensor, expected: torch.Tensor, tolerance: float | None = None) -> None:
    assert torch.isfinite(actual).all()
    error = (actual.cpu().double() - expected).abs().max().item()
    assert error <= (tolerance or TOLERANCES[actual.dtype]) * max(1.0, expected.abs().max().item()), error


def merged(plan: AttentionPlan) -> int:
    """How many tiles have their keys split."""
    return sum(int(work.counts[1]) for work in plan.lists)
