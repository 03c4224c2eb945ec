"""An adapter that changes nothing, for warm-up and measurements that need one before a client has uploaded any."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from multiflora_adapters.base_model import Site
from multiflora_adapters.weights import HostAdapter, SiteWeights


def zero_adapter(sites: Iterable[Site], rank: int, dtype: torch.dtype) -> HostAdapter:
    """On all of these linears."""
    weights = {
        site.name: SiteWeights(
            torch.zeros(rank, site.in_features, dtype=dtype), torch.zeros(rank, site.out_features, dtype=dtype), None
        )
        for site in sites
    }
    return HostAdapter("zero", rank, weights, sum(site.num_bytes for site in weights.values()))
