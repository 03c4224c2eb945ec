"""A mix's weights from those of its parts: their ranks side by side, each B scaled by its part's weight.

That is the weighted sum of the deltas exactly (PEFT's `add_weighted_adapter` with combination_type "cat"), so that
slots and kernels need nothing new.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.report import AdapterError, error
from multiflora_adapters.weights import HostAdapter, SiteWeights


def mix_adapters(
    digest: str, parts: Sequence[tuple[HostAdapter, float]], base: BaseModel, dtype: torch.dtype, max_rank: int
) -> HostAdapter:
    """parts: (adapter, weight); in float32 where `dtype` is narrower, so that values are rounded once.

    Semantics: at every site, delta = sum of weight * delta of the part. Raises AdapterError for DoRA (its magnitude
    multiplies the base, too, and cannot be summed), for biases and for ranks that together exceed max_rank.
    """
    names = dict.fromkeys(name for adapter, _ in parts for name in adapter.sites)
    sites = {
        name: _mix(
            base.sites[name],
            [(adapter.sites[name], weight) for adapter, weight in parts if name in adapter.sites],
            dtype,
        )
        for name in names
    }
    rank = max(site.rank for site in sites.values())
    if rank > max_rank:
        raise AdapterError(
            error("mix", f"The mix has rank {rank}.", expected=str(max_rank), hint="Mix fewer adapters.")
        )
    return HostAdapter(digest, rank, sites, sum(site.num_bytes for site in sites.values()))


def _mix(site: Site, parts: Sequence[tuple[SiteWeights, float]], dtype: torch.dtype) -> SiteWeights:
    if any(weights.magnitude is not None for weights, _ in parts):
        raise AdapterError(error("mix", "An adapter with DoRA cannot be part of a mix."))
    if any(weights.shift is not None for weights, _ in parts):
        raise AdapterError(error("mix", "An adapter with biases cannot be part of a mix: PEFT's would lose them."))
    a = torch.cat([weights.a for weights, _ in parts], dim=1 if site.kind == "embedding" else 0)
    b = torch.cat([weights.b * weight for weights, weight in parts])
    return SiteWeights(a.to(dtype).contiguous(), b.to(dtype).contiguous(), None)
