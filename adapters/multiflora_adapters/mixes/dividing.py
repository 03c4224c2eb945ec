"""A mix's part on one of several ranks: mixed whole, for some combinations look at all of a matrix, then divided."""

from __future__ import annotations

from dataclasses import replace

import torch

from multiflora_adapters.base_model import BaseModel, SitePart
from multiflora_adapters.weights import HostAdapter, SiteWeights


def divided(whole: HostAdapter, part: BaseModel) -> HostAdapter:
    """whole: of LoRA alone, as mixes are. part: what the rank serves of the base."""
    sites = {name: _own(weights, part.sites[name].part) for name, weights in whole.sites.items() if name in part.sites}
    return replace(whole, sites=sites, num_bytes=sum(site.num_bytes for site in sites.values()))


def _own(weights: SiteWeights, part: SitePart | None) -> SiteWeights:
    a, b = weights.a, weights.b
    if part is not None and part.columns is not None:
        a = a[:, slice(*part.columns)].contiguous()
    if part is not None and part.rows is not None:
        b = torch.cat([b[:, first:end] for first, end in part.rows], dim=1)
    return replace(weights, a=a, b=b)
