"""The thread that copies: what is given away meanwhile, failures of every part, and the order of work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from tests.engine.offload.copies import BLOCK_BYTES, content_of, hash_of

from multiflora_engine.core.block_tiers import BlockChain, BlockLoad
from multiflora_engine.offload.host_tier import HostTier
from multiflora_engine.offload.offloading import Offloading
from multiflora_engine.offload.tier import Pace


class Memory:
    """Blocks' contents by id; `during` is called in the middle of a copy."""

    block_bytes = BLOCK_BYTES

    def __init__(self) -> None:
        self.blocks: dict[int, bytes] = {}
        self.buffer = memoryview(bytearray(BLOCK_BYTES))
        self.during: Callable[[int], None] = lambda block_id: None

    def copy_out(self, block_id: int, pace: Pace) -> None:
        self.buffer[:300] = self.blocks[block_id][:300]
        self.during(block_id)
        self.buffer[300:] = self.blocks[block_id][300:]

    def copy_in(self, block_id: int, fence: object, pace: Pace) -> None:
        self.during(block_id)
        self.blocks[block_id] = bytes(self.buffer)

    def fence(self) -> object:
        return None


class Setting:
    """slower: a tier of so many copies behind the first one."""

    def __init__(self, slower: int = 0) -> None:
        self.memory = Memory()
        self.tier = HostTier(BLOCK_BYTES, 16)
        self.slower = HostTier(BLOCK_BYTES, slower)
        tiers = [self.tier, self.slower] if slower else [self.tier]
        self.offloading = Offloading(tiers, self.memory, num_blocks=16, block_size=16, paced=False)

    def keep(self, names: Sequence[object], are_hits: bool = False, share: float = 1.0) -> None:
        for block_id, name in enumerate(names):
            self.memory.blocks[block_id] = bytes(content_of(name))
        chain = BlockChain([hash_of(name) for name in names], b"root" * 8, "acme", share, 1)
        self.offloading.keep(chain, range(len(names)), range(len(names)), are_hits)

    def settle(self) -> None:
        assert self.offloading.wait_until_kept(60)

    def load(self, names: Sequence[object], block_ids: Sequence[int], share: float = 1.0) -> BlockLoad:
        load = self.offloading.load([hash_of(name) for name in names], block_ids, share)
        self.settle()
        assert self.offloading.finished() == [load]
        return load


@pytest.fixture
def setting() -> Iterator[Setting]:
    setting = Setting()
    yield setting
    setting.offloading.close()


def test_kept_blocks_are_loaded_as_they_were(setting: Setting) -> None:
    setting.keep(["a", "b", "c"])
    setting.settle()
    hashes = [hash_of(name) for name in ("a", "b", "c", "d")]
    assert setting.offloading.count_worth_loading(hashes) == 3
    assert setting.offloading.count_worth_loading(hashes[3:]) == 0
    assert setting.load(["a", "b", "c"], [7, 8, 9]).num_loaded == 3
    assert [setting.memory.blocks[block_id] for block_id in (7, 8, 9)] == [bytes(content_of(name)) for name in "abc"]
    (stats,) = setting.offloading.stats()
    assert (stats.name, stats.blocks, stats.bytes, stats.loaded) == ("host", 3, 3 * BLOCK_BYTES, 3)
    assert stats.bytes_per_second > 0


def test_a_block_that_is_given_away_while_it_is_copied_is_not_kept(setting: Setting) -> None:
    """The step loop gives it up, and another sequence writes it, in the middle of the copy."""

    def overwrite(block_id: int) -> None:
        if block_id == 1:
            setting.offloading.give_up(1)
            setting.memory.blocks[1] = bytes(content_of("another's"))

    setting.memory.during = overwrite
    setting.keep(["a", "b", "c"])
    setting.settle()
    assert [setting.offloading.holds(hash_of(name)) for name in "abc"] == [True, False, True]
    assert setting.offloading.missed == 1


def test_a_block_that_was_given_away_before_it_was_copied_is_not_kept(setting: Setting) -> None:
    may_go_on = threading.Event()
    setting.memory.during = lambda block_id: may_go_on.wait(60) if block_id == 0 else None  # type: ignore[return-value]
    setting.keep(["a", "b"])
    setting.offloading.give_up(1)
    setting.memory.blocks[1] = bytes(content_of("another's"))
    may_go_on.set()
    setting.settle()
    assert [setting.offloading.holds(hash_of(name)) for name in "ab"] == [True, False]


def test_loads_go_before_what_waits_to_be_kept(setting: Setting) -> None:
    setting.keep(["a"])
    setting.settle()
    order: list[int] = []
    entered, may_go_on = threading.Event(), threading.Event()

    def note(block_id: int) -> None:
        order.append(block_id)
        entered.set()
        may_go_on.wait(60)

    setting.memory.during = note
    setting.keep(["first"])
    assert entered.wait(60)
    setting.keep(["second", "third"])
    setting.offloading.load([hash_of("a")], [9], 1.0)
    may_go_on.set()
    setting.settle()
    assert order == [0, 9, 0, 1]


def test_parts_of_a_drop_that_wait_together_are_one_search(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    setting.keep(range(8))
    setting.settle()
    entered, may_go_on = threading.Event(), threading.Event()

    def wait(block_id: int) -> None:
        entered.set()
        may_go_on.wait(60)

    setting.memory.during = wait
    setting.keep(["another"])
    assert entered.wait(60)
    searches: list[list[bytes]] = []
    behind = setting.tier.slots.behind

    def counted(hashes: Sequence[bytes]) -> list[bytes]:
        searches.append(list(hashes))
        return behind(hashes)

    monkeypatch.setattr(setting.tier.slots, "behind", counted)
    for part in ([0, 1], [2], [], [3]):
        setting.offloading.drop([hash_of(name) for name in part])
    may_go_on.set()
    setting.settle()
    assert searches == [[hash_of(name) for name in range(4)]]
    setting.offloading.drop([hash_of("another")])
    setting.settle()
    assert len(searches) == 2
    assert not any(setting.offloading.holds(hash_of(name)) for name in (*range(4), "another"))


def test_a_load_ends_before_the_first_block_that_is_not_there(setting: Setting) -> None:
    setting.keep(["a", "b", "c"])
    setting.settle()
    setting.offloading.drop([hash_of("b")])
    load = setting.load(["a", "b", "c"], [7, 8, 9])
    assert load.num_loaded == 1
    assert 8 not in setting.memory.blocks


def test_a_load_that_is_not_wanted_any_more_stops(setting: Setting) -> None:
    setting.keep(["a", "b", "c"])
    setting.settle()
    setting.memory.during = lambda block_id: setattr(load, "is_wanted", False) if block_id == 7 else None
    hashes = [hash_of(name) for name in "abc"]
    load = BlockLoad(hashes, [7, 8, 9], 1.0)
    setting.offloading._num_loading += 3
    setting.offloading._load(load, None)
    assert (setting.offloading.finished(), load.num_loaded) == ([load], 1)


@pytest.mark.parametrize("part", ["copy_out", "copy_in", "write", "read"])
def test_the_thread_outlives_what_goes_wrong(
    setting: Setting, part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    setting.keep(["a"])
    setting.settle()

    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(setting.memory if part.startswith("copy") else setting.tier, part, broken)
        setting.keep(["b"])
        load = setting.load(["a"], [7])
        assert load.num_loaded == (part in ("copy_out", "write"))
    assert "Copying KV blocks failed" in caplog.text
    setting.keep(["c"])
    setting.settle()
    assert setting.offloading.holds(hash_of("c"))


def test_an_owner_has_its_share_of_a_tier(setting: Setting) -> None:
    setting.keep(range(8), share=0.25)
    setting.settle()
    assert len(setting.tier.slots) == 4


def test_an_owner_has_no_more_than_its_share_of_a_faster_tier_either() -> None:
    """What comes back from the slower one is not copied there beyond it."""
    setting = Setting(slower=32)
    setting.keep(range(8), share=0.25)
    setting.settle()
    assert (len(setting.tier.slots), len(setting.slower.slots)) == (4, 8)
    assert setting.load(range(8), range(8, 16), share=0.25).num_loaded == 8
    assert len(setting.tier.slots) == 4
    setting.offloading.close()


def test_hits_make_blocks_stay_and_bring_back_what_was_lost(setting: Setting) -> None:
    setting.keep(["hot"])
    setting.settle()
    setting.offloading.drop([hash_of("hot")])
    setting.keep(["hot"], are_hits=True)
    setting.keep(["hot"], are_hits=True)
    setting.settle()
    slot = setting.tier.slots.find(hash_of("hot"))
    assert slot is not None
    assert setting.tier.slots.block(slot).uses == 3
    for number in range(40):
        setting.keep([number])
        setting.settle()
    assert setting.offloading.holds(hash_of("hot"))


def test_closing_keeps_what_was_asked_for(setting: Setting) -> None:
    setting.keep(range(10))
    setting.offloading.close()
    assert len(setting.tier.slots) == 10
    setting.offloading.close()
