"""The sum of the experts that each token goes to, over rows sorted by expert, one product per expert that has tokens.

Does not know what an expert is made of. PyTorch on every device: group sizes are read on the host, so that no CUDA
graph can hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from multiflora_kernels.moe.routing import Routing

Expert = Callable[[torch.Tensor], torch.Tensor]
"""x: [n, H] -> [n, H], row by row."""


@dataclass(frozen=True)
class ExpertRows:
    """The P = T * k pairs of a token and one of its experts, expert by expert, those of one in the order of the tokens;
    `sort_by_expert` makes it."""

    order: torch.Tensor  # int64 [P]: row i is pair order[i] of `Routing.experts`, flattened
    tokens: torch.Tensor  # int64 [P]: row i is of token tokens[i]
    experts: torch.Tensor  # int64 [P]: and goes to this expert
    counts: list[int]  # [E]: rows of each expert


Experts = Callable[[torch.Tensor, ExpertRows], torch.Tensor]
"""(x: [P, H], whose rows they are) -> [P, H]: to each row its expert's result."""


def mix_experts_reference(x: torch.Tensor, routing: Routing, experts: Sequence[Expert]) -> torch.Tensor:
    """x: [T, H]. Semantics: y[t] = sum over j of weights[t, j] * experts[routing.experts[t, j]](x[t]); returns [T, H].

    Weighted and summed in float32, or in x's dtype where that is wider, rounded once.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y = torch.zeros_like(x, dtype=wide)
    for token in range(len(x)):
        for expert, weight in zip(routing.experts[token].tolist(), routing.weights[token], strict=True):
            y[token] += weight * experts[expert](x[token : token + 1])[0].to(wide)
    return y.to(x.dtype)


def mix_experts(x: torch.Tensor, routing: Routing, num_experts: int, experts: Experts) -> torch.Tensor:
    """See `mix_experts_reference`. Rows are sorted by expert once; experts: all of them, called once."""
    rows = sort_by_expert(routing, num_experts)
    if not len(rows.tokens):
        return torch.zeros_like(x)
    results = experts(x[rows.tokens], rows)
    # Back to token by token instead of added up in place: sums keep their order, on a GPU too.
    y = torch.empty_like(results)
    y[rows.order] = results
    wide = torch.promote_types(x.dtype, torch.float32)
    weighted = y.view(*routing.experts.shape, -1).to(wide) * routing.weights[..., None]
    return weighted.sum(1).to(x.dtype)


def sort_by_expert(routing: Routing, num_experts: int) -> ExpertRows:
    chosen = routing.experts.flatten()
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen, minlength=num_experts).tolist()
    return ExpertRows(order, order // routing.experts.shape[1], chosen[order], counts)


def each_group(x: torch.Tensor, rows: ExpertRows, experts: Sequence[Expert]) -> torch.Tensor:
    """x: [P, H], sorted. Semantics: y[i] = experts[rows.experts[i]](x[i]); an expert without rows is not called."""
    groups = x.split_with_sizes(rows.counts)
    return torch.cat([expert(group) for expert, group in zip(experts, groups, strict=True) if len(group)])
