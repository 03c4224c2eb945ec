"""Mixtures of experts at the shapes of Qwen3-30B-A3B and Mixtral 8x7B, beside reading what is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from gpu.measure import Probe, Row
from multiflora_kernels.activation import SILU
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.moe.expert_mlp import ExpertMlps, mix_expert_mlps_triton
from multiflora_kernels.moe.grouped_triton import ExpertGate, ExpertLinears
from multiflora_kernels.moe.routing import Routing, route


@dataclass(frozen=True)
class Shape:
    """Of a layer. size: of an expert's inside."""

    experts: int
    top_k: int
    hidden: int
    size: int


SHAPES = {"qwen3 30b a3b": Shape(128, 8, 2048, 768), "mixtral 8x7b": Shape(8, 2, 4096, 14336)}
TOKENS = (1, 8, 32, 256, 2048, 8192)


def expert_probes(
    device: torch.device, shapes: Mapping[str, Shape] = SHAPES, tokens: Sequence[int] = TOKENS
) -> Iterator[Probe]:
    for count in tokens:
        for name, shape in shapes.items():
            yield Probe(f"experts {name}, T={count}", partial(_row, name, shape, count, device))


def _row(name: str, shape: Shape, tokens: int, device: torch.device) -> Row:
    """One layer, whose experts together are larger than the L2; tokens choose at random."""
    x = torch.randn(tokens, shape.hidden, device=device, dtype=torch.bfloat16)
    routing = route(torch.randn(tokens, shape.experts, device=device), shape.top_k, is_normalised=True)
    mlps = ExpertMlps(
        _linears(shape, 2 * shape.size, shape.hidden, device),
        _linears(shape, shape.hidden, shape.size, device),
        ExpertGate(SILU),
    )
    weights = 3 * shape.hidden * shape.size
    pairs = tokens * shape.top_k
    return Row(
        f"experts {name}",
        f"T={tokens}",
        2.0 * weights * _chosen(routing) + 2 * x.nbytes,
        2.0 * pairs * weights,
        lambda: mix_expert_mlps_triton(x, routing, mlps),
    )


def _chosen(routing: Routing) -> int:
    """How many experts have a token."""
    return int((routing.experts.flatten().cpu().bincount() > 0).sum())


def _linears(shape: Shape, columns: int, k: int, device: torch.device) -> ExpertLinears:
    values = torch.randn(shape.experts * columns, k, device=device, dtype=torch.bfloat16)
    return ExpertLinears(NarrowMatrix(values), None, shape.experts)
