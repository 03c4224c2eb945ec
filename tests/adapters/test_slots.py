"""The slot pool: memory follows rank, freed slots are clean, large copies come in pieces."""

from __future__ import annotations

import pytest
import torch

from multiflora_adapters.device.copies import DeviceCopies
from multiflora_adapters.slots import SlotPool, pool_size
from multiflora_adapters.weights import HostAdapter, SiteWeights

Q = "model.layers.0.self_attn.q_proj"
K = "model.layers.1.self_attn.k_proj"


def adapter(rank: int, *names: str, dora: bool = False, fill: float = 1.0) -> HostAdapter:
    sizes = {Q: (64, 64), K: (64, 32), "lm_head": (64, 80)}
    sites = {}
    for name in names:
        k, n = sizes.get(name, (0, 0))
        a = torch.full((80, rank) if name == "model.embed_tokens" else (rank, k), fill)
        sites[name] = SiteWeights(a, torch.full((rank, n or 64), fill), torch.full((n or 64,), 2.0) if dora else None)
    return HostAdapter("d", rank, sites, sum(site.num_bytes for site in sites.values()))


@pytest.fixture
def pool(base):
    return SlotPool(base, num_slots=6, num_rows=16, dtype=torch.float32, device="cpu")


def test_pool_size_gives_low_ranks_more_slots():
    assert pool_size(8, 64) == (64, 512)
    assert pool_size(4, 4) == (4, 16)


def test_memory_follows_rank(pool):
    assert pool.put(adapter(8, Q)) is not None
    assert pool.put(adapter(8, Q)) is not None
    assert pool.put(adapter(1, Q)) is None
    pool.remove(0)
    slots = [pool.put(adapter(2, Q)) for _ in range(5)]
    assert None in slots
    assert slots.count(None) == 1
    assert pool.bytes_in_use == (8 + 4 * 2) * 4 * 128


def test_slots_are_the_limit_when_rows_are_left(pool):
    slots = [pool.put(adapter(1, Q)) for _ in range(7)]
    assert sorted(slots[:6]) == list(range(6))
    assert slots[6] is None


def test_site_knows_who_touches_it(pool):
    first, second = pool.put(adapter(2, Q)), pool.put(adapter(3, Q, K))
    assert pool.site(Q).ranks[[first, second]].tolist() == [2, 3]
    assert pool.site(K).ranks[[first, second]].tolist() == [0, 3]
    assert pool.site(K).active
    pool.remove(second)
    assert not pool.site(K).active
    assert pool.site(K).ranks.sum() == 0


def test_embedding_and_head_take_no_memory_before_they_are_used(pool):
    pool.put(adapter(2, Q))
    for name in ("model.embed_tokens", "lm_head"):
        assert pool.site(name).b.numel() == 0
        assert not pool.site(name).active
    site = pool.site("model.embed_tokens")
    slot = pool.put(adapter(2, "model.embed_tokens", fill=5.0))
    assert site.a.shape == (80, 16)
    assert site.active
    offset = int(site.offsets[slot])
    assert (site.a[:, offset : offset + 2] == 5.0).all()


def test_magnitude_is_one_for_plain_adapters_and_gone_with_the_last_dora(pool):
    plain = pool.put(adapter(1, Q))
    assert pool.site(Q).magnitude is None
    dora = pool.put(adapter(1, Q, dora=True))
    assert (pool.site(Q).magnitude[plain] == 1).all()
    assert (pool.site(Q).magnitude[dora] == 2).all()
    pool.remove(dora)
    assert pool.site(Q).magnitude is None
    again = pool.put(adapter(1, Q))
    other = pool.put(adapter(1, Q, dora=True))
    assert again == dora
    assert (pool.site(Q).magnitude[again] == 1).all()
    assert (pool.site(Q).magnitude[other] == 2).all()


def test_a_shift_is_zero_for_others_and_gone_with_the_last_bias(pool):
    plain, empty = pool.put(adapter(1, Q)), pool.layout
    only_bias = SiteWeights(torch.empty(0, 64), torch.empty(0, 32), None, torch.full((32,), 3.0))
    biased = pool.put(HostAdapter("d", 1, {**adapter(1, Q).sites, K: only_bias}, 0))
    assert pool.site(Q).shift is None
    assert (pool.site(K).shift[biased] == 3).all()
    assert (pool.site(K).shift[plain] == 0).all()
    assert pool.site(K).active
    assert pool.site(K).ranks[biased] == 0
    assert pool.layout != empty
    pool.remove(biased)
    assert pool.site(K).shift is None
    assert pool.layout == empty
    again = pool.put(HostAdapter("d", 1, {K: only_bias}, 0))
    other = pool.put(adapter(1, K))
    assert (pool.site(K).shift[[again, other]] == torch.tensor([[3.0], [0.0]])).all()
    pool.remove(again)
    assert pool.put(adapter(1, K)) == again
    pool.put(HostAdapter("d", 1, {K: only_bias}, 0))
    assert (pool.site(K).shift[again] == 0).all()


def test_layout_names_the_tensors_in_use(pool):
    empty = pool.layout
    plain = pool.put(adapter(1, Q))
    assert pool.layout == empty
    dora = pool.put(adapter(1, Q, dora=True))
    with_dora = pool.layout
    assert with_dora != empty
    pool.remove(dora)
    assert pool.layout == empty
    pool.put(adapter(1, "lm_head"))
    with_head = pool.layout
    assert with_head not in (empty, with_dora)
    assert pool.site("lm_head").is_allocated
    pool.remove(plain)
    assert pool.layout == with_head
    pool.put(adapter(1, Q, dora=True))
    assert pool.layout not in (empty, with_dora, with_head)


def test_max_rank_is_a_multiple_of_sixteen(base, pool):
    assert pool.site(Q).max_rank == 16
    assert SlotPool(base, 2, 64, torch.float32, "cpu", max_rank=24).site(Q).max_rank == 32


def test_upload_in_pieces_shows_nothing_before_its_end(pool, monkeypatch):
    monkeypatch.setattr("multiflora_adapters.device.copies._PIECE_BYTES", 512)
    host = adapter(4, Q, K, dora=True, fill=3.0)
    upload = pool.begin(host)
    steps, total = 0, 0
    while True:
        copied, complete = upload.step(512)
        assert copied <= 512 + 4 * 64
        total += copied
        steps += 1
        if complete:
            break
        assert pool.site(Q).ranks[upload.slot] == 0
        assert not pool.site(Q).active
    assert total == host.num_bytes
    assert steps >= host.num_bytes // 1024
    offset = int(pool.offsets[upload.slot])
    assert (pool.site(K).b[offset : offset + 4] == 3.0).all()


def test_unfinished_upload_can_be_removed(pool):
    upload = pool.begin(adapter(16, Q, dora=True))
    upload.step(1)
    pool.remove(upload.slot)
    assert pool.put(adapter(16, Q)) is not None
    assert pool.site(Q).magnitude is None


def test_would_fit_counts_rows_and_slots(pool):
    slots = [pool.put(adapter(4, Q)) for _ in range(4)]
    assert not pool.would_fit(4, set())
    assert pool.would_fit(4, {slots[1]})
    assert not pool.would_fit(8, {slots[0], slots[2]}), "rows must be contiguous"
    assert pool.would_fit(8, {slots[2], slots[3]})


def test_pinned_end_keeps_the_rest_in_one_piece(pool):
    first = pool.put(adapter(4, Q))
    upload = pool.begin(adapter(4, Q), at_end=True)
    while not upload.step(1 << 20)[1]:
        pass
    pool.remove(first)
    assert pool.offsets[upload.slot] == 12
    assert pool.put(adapter(12, Q)) is not None


class SlowCopies(DeviceCopies):
    """A device that takes its time: copies are done when a test says so."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.waiting: list[tuple[torch.Tensor, torch.Tensor]] = []

    def send(self):
        self.waiting += zip(self._sources, self._targets, strict=True)
        self._sources, self._targets = [], []

    def finished(self):
        self.send()
        return lambda: not self.waiting

    def arrive(self):
        for source, target in self.waiting:
            target.copy_(source)
        self.waiting.clear()


def test_an_adapter_is_attached_when_the_device_has_it(base, monkeypatch):
    copies = SlowCopies()
    monkeypatch.setattr("multiflora_adapters.slots.DeviceCopies", lambda device: copies)
    pool = SlotPool(base, num_slots=6, num_rows=16, dtype=torch.float32, device="cpu")
    host = adapter(4, Q, dora=True, fill=3.0)
    upload = pool.begin(host)
    assert upload.step(1 << 30) == (host.num_bytes, False)
    for _ in range(3):
        assert upload.step(1 << 30) == (0, False)
        assert not pool.site(Q).active
        assert pool.site(Q).ranks[upload.slot] == 0
    copies.arrive()
    assert upload.step(1 << 30) == (0, True)
    assert pool.site(Q).ranks[upload.slot] == 4
    assert (pool.site(Q).a[:4] == 3).all()
    assert (pool.site(Q).magnitude[upload.slot] == 2).all()
