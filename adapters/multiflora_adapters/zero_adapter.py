"""An adapter that changes nothing, for warm-up and measurements that need one before a client has uploaded any."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from multiflora_adapters.base_model import Site
from multiflora_adapters.weights import HostAdapter, SiteWeights


def zero_adapter(sites: Iterable[Site], rank: int, dtype: torch.dtype, *, has_vectors: bool = False) -> HostAdapter:
    """On all of these. has_vectors: with magnitudes and biases everywhere."""
    weights = {site.name: _nothing(site, rank, dtype, has_vectors) for site in sites}
    return HostAdapter("zero", rank, weights, sum(site.num_bytes for site in weights.values()))


def _nothing(site: Site, rank: int, dtype: torch.dtype, has_vectors: bool) -> SiteWeights:
    shape = (site.in_features, rank) if site.kind == "embedding" else (rank, site.in_features)
    a, b = torch.zeros(shape, dtype=dtype), torch.zeros(rank, site.out_features, dtype=dtype)
    if not has_vectors:
        return SiteWeights(a, b, None)
    return SiteWeights(a, b, torch.ones(site.out_features), torch.zeros(site.out_features))
