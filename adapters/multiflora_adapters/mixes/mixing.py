"""A mix's weights from those of its parts, so that slots and kernels need nothing new.

As PEFT's `add_weighted_adapter`. Its "cat" puts the ranks side by side: the weighted sum of the deltas exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.kv_reach import KvReach
from multiflora_adapters.mixes.merging import merge
from multiflora_adapters.mixes.recipe import Mix, mixed_kv_digest
from multiflora_adapters.report import AdapterError, error
from multiflora_adapters.weights import HostAdapter, SiteWeights


class MixError(AdapterError):
    """Adapters that cannot be combined as the mix says; each by itself may be served."""


def mix_adapters(
    digest: str, mix: Mix, parts: Sequence[HostAdapter], base: BaseModel, dtype: torch.dtype, max_rank: int
) -> HostAdapter:
    """parts: the mix's, in its order; in float32 where `dtype` is narrower, so that values are rounded once.

    A site is made of the parts that have it. Raises MixError for DoRA (its magnitude multiplies the base, too, and
    cannot be summed), for biases, for activated LoRA, for LoRA on experts, for an embedding or head of a part's own,
    for unequal ranks where they must be equal, and for a rank above max_rank. Parts are named by their digests.
    """
    for part in parts:
        if (what := _unmixable(part)) is not None:
            raise MixError(error("mix", f"The adapter {part.digest} has {what} and cannot be part of a mix."))
    largest = max(part.rank for part in parts)
    sites = {}
    for name in dict.fromkeys(name for part in parts for name in part.sites):
        here = [(part.sites[name], p.weight) for part, p in zip(parts, mix.parts, strict=True) if name in part.sites]
        if mix.combination not in ("cat", "svd"):
            _require_one_rank(mix, name, parts)
        a, b = _combined(mix, base.sites[name], here, largest)
        sites[name] = SiteWeights(a.to(dtype).contiguous(), b.to(dtype).contiguous(), None)
    rank = max(site.rank for site in sites.values())
    if rank > max_rank:
        raise MixError(error("mix", f"The mix has rank {rank}.", expected=str(max_rank), hint="Mix fewer adapters."))
    num_bytes = sum(site.num_bytes for site in sites.values())
    return HostAdapter(digest, rank, sites, num_bytes, kv_reach=_kv_reach(mix, parts))


def _kv_reach(mix: Mix, parts: Sequence[HostAdapter]) -> KvReach:
    reaches = {part.digest: part.kv_reach or KvReach(part.digest) for part in parts}
    return KvReach(mixed_kv_digest(mix, {part: reach.digest for part, reach in reaches.items()}))


def random_numbers(seed: int, site: str) -> torch.Generator:
    """What DARE draws at a site follows from the seed and the site's name alone."""
    mixed = hashlib.sha256(f"{seed}:{site}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "big") >> 1)


def _unmixable(part: HostAdapter) -> str | None:
    """What of it cannot be summed; PEFT's own sum would lose biases."""
    sites = part.sites.values()
    for what, is_there in (
        ("an embedding or head of its own", part.replaced),
        ("LoRA on experts", part.experts),
        ("DoRA's magnitudes", any(site.magnitude is not None for site in sites)),
        ("invocation tokens", part.kv_reach is not None and part.kv_reach.invocation),
        ("biases", any(site.shift is not None for site in sites)),
    ):
        if is_there:
            return what
    return None


def _require_one_rank(mix: Mix, site: str, parts: Sequence[HostAdapter]) -> None:
    ranks = {part.digest: part.sites[site].rank for part in parts if site in part.sites}
    if len(set(ranks.values())) > 1:
        different = ", ".join(f"{digest} has {rank}" for digest, rank in ranks.items())
        hint = f'combination "{mix.combination}" needs equal ranks; "cat" and "svd" do not.'
        raise MixError(error("mix", f"At {site} the ranks differ: {different}.", expected="one rank", hint=hint))


def _combined(
    mix: Mix, site: Site, parts: Sequence[tuple[SiteWeights, float]], max_rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """a and b of the site, as SiteWeights has them."""
    if mix.combination == "cat":
        return _side_by_side(site, parts)
    if mix.combination == "svd":
        return _truncated(site, *_side_by_side(site, parts), max_rank)
    return _merged(mix, site, parts)


def _side_by_side(site: Site, parts: Sequence[tuple[SiteWeights, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.cat([weights.a for weights, _ in parts], dim=1 if site.kind == "embedding" else 0)
    return a, torch.cat([weights.b * weight for weights, weight in parts])


def _truncated(site: Site, a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The closest factors of that rank, by singular values of the product of two small triangles: it has no more."""
    q_b, r_b = torch.linalg.qr(b.t().float())
    q_a, r_a = torch.linalg.qr((a if site.kind == "embedding" else a.t()).float())
    u, s, vh = torch.linalg.svd(r_b @ r_a.t())
    rank = min(rank, len(s))
    a = vh[:rank] @ q_a.t()
    return (a.t() if site.kind == "embedding" else a), (q_b @ (u[:, :rank] * s[:rank])).t()


def _merged(mix: Mix, site: Site, parts: Sequence[tuple[SiteWeights, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B merged each by itself, with the roots of weight and scaling, in PEFT's orientation."""
    generator = random_numbers(mix.seed, site.name)
    signed = [weight * weights.scaling for weights, weight in parts]
    roots = [math.sqrt(abs(value)) for value in signed]
    is_embedding = site.kind == "embedding"
    all_a = [(weights.a.t() if is_embedding else weights.a).float().contiguous() for weights, _ in parts]
    all_b = [(weights.b.t().float() / (weights.scaling or 1.0)).contiguous() for weights, _ in parts]
    a_weights = [math.copysign(root, value) for root, value in zip(roots, signed, strict=True)]
    a = merge(mix.combination, all_a, a_weights, mix.density, generator)
    b = merge(mix.combination, all_b, roots, mix.density, generator)
    return (a.t() if is_embedding else a), b.t()
