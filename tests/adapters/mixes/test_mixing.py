"""What cannot be mixed is refused with the part that it is; PEFT's results are held in tests/engine/parity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.mixes.mixing import MixError, mix_adapters
from multiflora_adapters.mixes.recipe import Combination, Mix, MixPart, mix_digest
from multiflora_adapters.weights import HostAdapter, ReplacedRows, SiteWeights

BASE = BaseModel("base", "Llama", "0" * 64, 1, {"q": Site("q", 6, 4), "v": Site("v", 6, 4)})
PLAIN, OTHER = "a" * 64, "b" * 64


def adapter(digest: str, rank: int = 2) -> HostAdapter:
    weights = SiteWeights(torch.ones(rank, 6), torch.ones(rank, 4), None)
    return HostAdapter(digest, rank, {"q": weights, "v": weights}, 2 * weights.num_bytes)


def mixed(other: HostAdapter, combination: Combination = "cat") -> HostAdapter:
    mix = Mix((MixPart(PLAIN, 0.5), MixPart(OTHER, 2.0)), combination)
    return mix_adapters(mix_digest(mix), mix, [adapter(PLAIN), other], BASE, torch.float32, 16)


def test_parts_side_by_side_are_the_weighted_sum() -> None:
    site = mixed(adapter(OTHER, rank=3)).sites["q"]
    torch.testing.assert_close(site.b.t() @ site.a, torch.full((4, 6), 0.5 * 2 + 2.0 * 3))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"magnitude": torch.ones(4)}, "DoRA's magnitudes"),
        ({"shift": torch.ones(4)}, "biases"),
        ({}, "an embedding or head of its own"),
    ],
)
def test_the_part_that_cannot_be_mixed_is_named(changes: dict[str, torch.Tensor], what: str) -> None:
    other = adapter(OTHER)
    if changes:
        other = replace(other, sites={**other.sites, "v": replace(other.sites["v"], **changes)})
    else:
        other = replace(other, replaced={"lm_head": ReplacedRows(None, torch.ones(5, 4))})
    with pytest.raises(MixError, match=f"The adapter {OTHER} has {what} and cannot be part of a mix"):
        mixed(other)


def test_which_ranks_differ_is_told() -> None:
    with pytest.raises(MixError, match=f"At q the ranks differ: {PLAIN} has 2, {OTHER} has 3. combination .linear."):
        mixed(adapter(OTHER, rank=3), "linear")
