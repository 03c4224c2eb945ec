"""A table of addresses follows the adapters that come and go, and so does the name of a graph's layout."""

from __future__ import annotations

import torch

from multiflora_adapters.base_model import BaseModel, ExpertLinear, Site, SparseLayer
from multiflora_adapters.slots import SlotPool
from multiflora_adapters.zero_adapter import zero_adapter

LAYER = "model.layers.0.mlp"


def linear(name: str, in_features: int, out_features: int) -> ExpertLinear:
    sites = tuple(Site(f"{LAYER}.experts.{number}.{name}", in_features, out_features, layer=0) for number in range(3))
    return ExpertLinear(f"{LAYER}.experts.{name}", sites)


UP, DOWN = linear("up_proj", 16, 24), linear("down_proj", 24, 16)
EXPERTS = f"{LAYER}.experts"
SPARSE = SparseLayer(f"{LAYER}.gate", f"{LAYER}.gate", EXPERTS, EXPERTS, (UP,), DOWN)


def pool() -> SlotPool:
    base = BaseModel("tiny", "Any", "digest", 1, {}, sparse_layers=(SPARSE,))
    return SlotPool(base, 4, 16, torch.float32, "cpu", max_rank=8, own_bytes=1 << 20)


def adapter(*linears: ExpertLinear):
    return zero_adapter([], 2, torch.float32, linears=linears)


def test_a_slot_has_the_addresses_of_its_adapter_until_it_leaves() -> None:
    slots = pool()
    table = slots.expert_site(UP.name).addresses
    assert slots.expert_site(UP.name).max_rank == 16
    other, slot = slots.put(adapter(DOWN)), slots.put(adapter(UP, DOWN))
    own = slots.experts(UP.name)[slot]
    expected = [own.a.data_ptr(), own.b.data_ptr(), own.offsets.data_ptr(), own.ranks.data_ptr(), 0]
    assert table[slot].tolist() == expected
    assert table.count_nonzero() == 4, "slots without have none"
    assert slots.expert_site(DOWN.name).addresses.count_nonzero() == 8
    slots.remove(slot)
    assert table.count_nonzero() == 0
    assert slots.expert_site(DOWN.name).addresses[other].count_nonzero() == 4


def test_a_layout_says_which_experts_are_touched() -> None:
    slots = pool()
    empty = slots.layout
    down = slots.put(adapter(DOWN))
    of_down = slots.layout
    both = slots.put(adapter(UP, DOWN))
    assert len({empty, of_down, slots.layout}) == 3
    slots.remove(both)
    assert slots.layout == of_down
    slots.remove(down)
    assert slots.layout == empty
