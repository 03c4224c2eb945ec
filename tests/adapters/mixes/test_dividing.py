"""A rank's part of a mix: the columns of A or the rows of B that its linear has, of what is shared all."""

from __future__ import annotations

from dataclasses import replace

import torch

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.mixes.dividing import divided
from multiflora_adapters.weights import HostAdapter, SiteWeights

SITES = {
    "qkv": Site("qkv", 6, 8).with_rows(((2, 4), (5, 6))),
    "o": Site("o", 6, 8).with_columns(3, 6),
    "router": Site("router", 6, 8),
}


def test_a_mix_is_divided_as_its_linears_are() -> None:
    whole = SiteWeights(torch.randn(2, 6), torch.randn(2, 8), None)
    base = BaseModel("base", "Llama", "0" * 64, 1, SITES)
    part = divided(HostAdapter("mix", 2, dict.fromkeys(SITES, whole), 0), base)
    assert torch.equal(part.sites["qkv"].b, whole.b[:, [2, 3, 5]])
    assert torch.equal(part.sites["o"].a, whole.a[:, 3:])
    assert part.sites["qkv"].a is part.sites["router"].a is whole.a
    assert part.sites["o"].b is part.sites["router"].b is whole.b
    assert part.num_bytes == sum(site.num_bytes for site in part.sites.values())
    assert all(tensor.is_contiguous() for site in part.sites.values() for tensor in site.tensors)
    assert replace(part, sites={}, num_bytes=0) == HostAdapter("mix", 2, {}, 0)
