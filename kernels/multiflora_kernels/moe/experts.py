"""The sum of the experts that each token goes to, one product per expert that has tokens.

Does not know what an expert is made of. PyTorch on every device: group sizes are read on the host, so that no CUDA
graph can hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from multiflora_kernels.moe.routing import Routing

Expert = Callable[[torch.Tensor], torch.Tensor]
"""x: [n, H] -> [n, H], row by row."""


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


def mix_experts(x: torch.Tensor, routing: Routing, experts: Sequence[Expert]) -> torch.Tensor:
    """See `mix_experts_reference`. Rows are sorted by expert once; an expert without tokens is not called."""
    tokens, top_k = routing.experts.shape
    chosen = routing.experts.flatten()
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen, minlength=len(experts)).tolist()
    groups = x[order // top_k].split_with_sizes(counts)
    results = [expert(group) for expert, group in zip(experts, groups, strict=True) if len(group)]
    if not results:
        return torch.zeros_like(x)
    # Back to token by token instead of added up in place: sums keep their order, on a GPU too.
    y = torch.empty((tokens * top_k, x.shape[1]), dtype=x.dtype, device=x.device)
    y[order] = torch.cat(results)
    wide = torch.promote_types(x.dtype, torch.float32)
    weighted = y.view(tokens, top_k, -1).to(wide) * routing.weights[..., None]
    return weighted.sum(1).to(x.dtype)
