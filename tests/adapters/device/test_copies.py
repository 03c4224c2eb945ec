"""What a GPU does beside each other when adapters come and go: no byte is touched on two streams without an order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from gpu.fake.card import FakeCard, fake_card
from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.device.copies import DeviceCopies, pinned
from multiflora_adapters.device.own_tensors import OwnTensors
from multiflora_adapters.slots import SlotPool, SlotUpload
from multiflora_adapters.weights import HostAdapter, SiteWeights

Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
RANK = 4


@pytest.fixture
def card() -> Iterator[FakeCard]:
    with fake_card(compiles=False) as card:
        yield card


def adapter(base: BaseModel, *, vectors: bool) -> HostAdapter:
    sites = {}
    for name in (Q, UP):
        site = base.sites[name]
        vector = torch.ones(site.out_features) if vectors else None
        a, b = torch.ones(RANK, site.in_features), torch.ones(RANK, site.out_features)
        sites[name] = SiteWeights(a, b, vector, vector)
    return HostAdapter("digest", RANK, sites, 0)


def begun(pool: SlotPool, host: HostAdapter, pieces: int) -> SlotUpload:
    """With so many pieces under way, of which the host has seen none arrive."""
    upload = pool.begin(host)
    assert upload is not None
    for _ in range(pieces):
        assert upload.step(1)[0]
    return upload


def read(pool: SlotPool, slot: int) -> None:
    """As a step's kernels do, of the adapters that are attached."""
    for name in (Q, UP):
        for table in (pool.site(name).magnitude, pool.site(name).shift):
            if table is not None:
                table[slot].sum()


@pytest.mark.parametrize("pieces", [3, 4, 7, 8])
def test_an_adapter_leaves_while_its_vectors_are_under_way(card: FakeCard, base: BaseModel, pieces: int) -> None:
    """The slot's next adapter, without vectors, reads neutral ones, and one with vectors its own."""
    pool = SlotPool(base, 2, 32, torch.float32, "cuda")
    other = pool.put(adapter(base, vectors=True))
    assert other is not None
    left = begun(pool, adapter(base, vectors=True), pieces)
    pool.remove(left.slot)
    for vectors in (False, True):
        slot = pool.put(adapter(base, vectors=vectors))
        assert slot == left.slot
        read(pool, slot)
        pool.remove(slot)
    read(pool, other)
    assert card.races == []


def test_an_adapter_leaves_that_a_launched_step_reads(card: FakeCard, base: BaseModel) -> None:
    pool = SlotPool(base, 2, 32, torch.float32, "cuda")
    first, other = (pool.put(adapter(base, vectors=True)) for _ in range(2))
    assert first is not None
    assert other is not None
    read(pool, first)
    pool.remove(first)
    read(pool, other)
    assert card.races == []


class Rows:
    """Tensors as an adapter brings them beside its rank rows."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self.tensors = tensors

    def moved(self, move: Any) -> Rows:
        return Rows([move(tensor) for tensor in self.tensors])


def give_back_early() -> None:
    """Own tensors are gone while copies to them are under way."""
    device = torch.device("cuda")
    copies = DeviceCopies(device)
    own: OwnTensors[Rows] = OwnTensors(device, copies)
    host = {"head": Rows([torch.ones(6, 4), torch.ones(3)])}
    there = own.allocate(host)
    copies.begin()
    assert sum(own.pieces(host, there)) == 4 * 27
    copies.send()
    there.clear()


def test_memory_that_copies_still_write_to_is_not_given_to_others(card: FakeCard) -> None:
    give_back_early()
    assert card.races == []


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many copies each call to PyTorch starts."""
    sent: list[int] = []
    copy = torch._foreach_copy_

    def counted(targets: list[torch.Tensor], sources: list[torch.Tensor], **options: Any) -> None:
        sent.append(len(targets))
        copy(targets, sources, **options)

    monkeypatch.setattr(torch, "_foreach_copy_", counted)
    return sent


def test_an_adapter_is_sent_by_one_call(card: FakeCard, base: BaseModel, sent: list[int]) -> None:
    pool = SlotPool(base, 2, 32, torch.float32, "cuda")
    assert pool.put(adapter(base, vectors=True)) is not None
    assert sent == [8]
    assert card.races == []


def test_what_the_host_begins_at_once_is_bounded_by_bytes_and_by_copies(
    card: FakeCard, base: BaseModel, sent: list[int]
) -> None:
    """A copy of a few bytes takes the host as long as one of many."""
    pool = SlotPool(base, 2, 32, torch.float32, "cuda")
    assert pool.bytes_at_once == 128 << 20
    upload = pool.begin(adapter(base, vectors=True))
    assert upload is not None
    assert upload.step(3 * (256 << 10)) == (3 * (256 << 10), False)
    assert sent == [3]


def test_a_pinned_adapter_lies_in_few_pieces_and_is_the_same(card: FakeCard, base: BaseModel) -> None:
    host = adapter(base, vectors=True)
    site = replace(host.sites[Q], b=torch.arange(RANK * 64.0).view(RANK, 64), scaling=0.5)
    there = pinned(replace(host, sites={**host.sites, Q: site}))
    assert len({t.untyped_storage().data_ptr() for site in there.sites.values() for t in site.tensors}) == 1
    assert torch.equal(there.sites[Q].b, site.b)
    assert there.sites[Q].scaling == 0.5
    assert torch.equal(there.sites[UP].a, host.sites[UP].a)


def test_without_an_order_these_tests_would_fail(
    card: FakeCard, monkeypatch: pytest.MonkeyPatch, base: BaseModel
) -> None:
    monkeypatch.setattr(DeviceCopies, "fill", lambda copies, target, value: target.fill_(value))
    monkeypatch.setattr(DeviceCopies, "keep", lambda copies, target: None)
    pool = SlotPool(base, 1, 32, torch.float32, "cuda")
    pool.remove(begun(pool, adapter(base, vectors=True), 4).slot)
    assert set(card.races) == {"aten.fill_.Scalar beside aten._foreach_copy_.default"}
    give_back_early()
    assert card.races[-1] == "given back beside aten._foreach_copy_.default"
