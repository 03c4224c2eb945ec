"""An adapter that changes nothing, for warm-up and measurements that need one before a client has uploaded any."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from multiflora_adapters.base_model import ExpertLinear, Site
from multiflora_adapters.experts.weights import ExpertWeights, stacked
from multiflora_adapters.weights import HostAdapter, SiteWeights


def zero_adapter(
    sites: Iterable[Site],
    rank: int,
    dtype: torch.dtype,
    *,
    has_vectors: bool = False,
    linears: Iterable[ExpertLinear] = (),
) -> HostAdapter:
    """On all of these. has_vectors: with magnitudes and biases everywhere. linears: of all their experts."""
    weights = {site.name: _nothing(site, rank, dtype, has_vectors) for site in sites}
    experts = {linear.name: _nothing_of_experts(linear, rank, dtype) for linear in linears}
    num_bytes = sum(site.num_bytes for site in weights.values()) + sum(own.num_bytes for own in experts.values())
    return HostAdapter("zero", rank, weights, num_bytes, experts=experts)


def _nothing_of_experts(linear: ExpertLinear, rank: int, dtype: torch.dtype) -> ExpertWeights:
    a, b = (torch.zeros(rank, size, dtype=dtype) for size in (linear.sites[0].in_features, linear.out_features))
    return stacked(linear, dict.fromkeys(range(len(linear.sites)), (a, b, None)))


def _nothing(site: Site, rank: int, dtype: torch.dtype, has_vectors: bool) -> SiteWeights:
    shape = (site.in_features, rank) if site.kind == "embedding" else (rank, site.in_features)
    a, b = torch.zeros(shape, dtype=dtype), torch.zeros(rank, site.out_features, dtype=dtype)
    if not has_vectors:
        return SiteWeights(a, b, None)
    return SiteWeights(a, b, torch.ones(site.out_features), torch.zeros(site.out_features))
