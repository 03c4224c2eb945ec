"""Copies of KV blocks of several ranks: engines whose ranks each keep their part, and what ranks are told, in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from tests.engine.offload.copies import content_of, hash_of
from tests.engine.offload.test_engine_with_tiers import prompts_of
from tests.engine.offload.test_offloading import Setting
from tests.engine.parallel.test_parity import HEADS
from transformers import LlamaConfig

from multiflora_engine.core.block_tiers import BlockChain
from multiflora_engine.offload import opening
from multiflora_engine.offload.offloading import Offloading
from multiflora_engine.offload.transfer_cost import TransferCost
from multiflora_engine.parallel.line import OtherRank, RankLine, RankLost
from multiflora_engine.parallel.messages import KeepBlocks, StopLoad, ToRank, decoder
from multiflora_engine.parallel.shared_copies import CopyFollower, SharedCopies

DIVIDED = [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}]
BLOCK_BYTES = 2 * 2 * 16 * 4 * 16
"""Of the one key-value head that a rank has, or the one layer of a stage."""


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[Offloading]:
    """Of all ranks, as they are made; loading always pays."""
    monkeypatch.setattr(TransferCost, "pays", lambda *_: True)
    made: list[Offloading] = []

    def noted(*arguments: Any) -> Offloading:
        made.append(Offloading(*arguments))
        return made[-1]

    monkeypatch.setattr(opening, "Offloading", noted)
    return made


def settle(engine: Any, copies: list[Offloading]) -> None:
    """All ranks have heard and done what the first one told them so far."""
    engine.device_side.dummy.logits([None], 1)
    assert all(one.wait_until_kept(60) for one in copies)


@pytest.mark.parametrize("divided", DIVIDED)
def test_what_a_small_pool_has_given_away_is_found_in_the_memory_of_all_ranks(
    divided: dict[str, int],
    copies: list[Offloading],
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
) -> None:
    """As one rank's are, and several prompts at once, preempted."""
    model, folder = save_model(tiny_config(LlamaConfig, **HEADS))
    engine = start_engine(
        folder,
        max_model_len=128,
        kv_cache_memory=14 * BLOCK_BYTES,
        kv_offload_bytes=100 * BLOCK_BYTES,
        **divided,
    )
    assert engine.ready.num_blocks == 14
    asked = prompts_of(6)
    for prompt in asked:
        ask(engine, [prompt])
        settle(engine, copies)
    for answers in (ask(engine, asked), [ask(engine, [prompt])[0] for prompt in asked]):
        assert [answer.cached_tokens for answer in answers] == [96] * 6
        for prompt, answer in zip(asked, answers, strict=True):
            check_answer(model, prompt, answer)
    (host,) = engine.engine.stats().tiers
    assert (host.bytes, host.capacity_bytes, host.lost) == (36 * 2 * BLOCK_BYTES, 100 * 2 * BLOCK_BYTES, 0)
    assert [one.stats()[0].loaded for one in copies] == [host.loaded] * 2


@pytest.mark.parametrize("divided", DIVIDED)
def test_copies_on_disk_are_each_ranks_own_and_outlive_it(
    divided: dict[str, int],
    copies: list[Offloading],
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    tmp_path: Path,
) -> None:
    """What another rank has is never taken for one's own, though it is of the same shape."""
    model, folder = save_model(tiny_config(LlamaConfig, **HEADS))
    kv = tmp_path / "kv"
    asked = prompts_of(2)

    def answers() -> list[int]:
        copies.clear()
        engine = start_engine(folder, kv_offload_dir=str(kv), **divided)
        found = ask(engine, asked)
        settle(engine, copies)
        engine.close()
        for prompt, answer in zip(asked, found, strict=True):
            check_answer(model, prompt, answer)
        return [answer.cached_tokens for answer in found]

    assert [answers(), answers()] == [[0, 0], [96, 96]]
    first, second = kv / "rank-0", kv / "rank-1"
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    assert answers() == [0, 0]


def test_what_one_rank_lacks_is_computed_and_kept_anew(
    copies: list[Offloading], tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any
) -> None:
    model, folder = save_model(tiny_config(LlamaConfig, **HEADS))
    small = {"max_model_len": 128, "kv_cache_memory": 8 * BLOCK_BYTES, "kv_offload_bytes": 100 * BLOCK_BYTES}
    engine = start_engine(folder, tensor_parallel_size=2, **small)
    asked = prompts_of(2)

    def cached(prompt: list[int]) -> int:
        (answer,) = ask(engine, [prompt])
        settle(engine, copies)
        check_answer(model, prompt, answer)
        return int(answer.cached_tokens)

    assert [cached(prompt) for prompt in asked] == [0, 0]
    other = copies[1]
    hashes = [block.hash for block in sorted(other._tiers[0].slots._blocks.values(), key=lambda block: block.depth)]
    other.drop(hashes[-4:])  # of each prompt's six blocks the last two
    assert other.wait_until_kept(60)
    assert [cached(prompt) for prompt in asked] == [64, 64]
    assert [cached(prompt) for prompt in asked] == [96, 96]


class TwoRanks:
    """The first rank's copies and another's, on a line that is read when the test says so."""

    def __init__(self) -> None:
        self.own, self.other = Setting(), Setting()
        (steps, self._steps), (adapters, _), (copies, self.said) = Pipe(), Pipe(), Pipe()
        self.shared = SharedCopies(
            self.own.offloading, RankLine([OtherRank(1, steps, adapters, copies, lambda: "killed")]), 2 * 600
        )
        self.follower = CopyFollower(self.other.offloading, self.said)

    def heard(self) -> list[Any]:
        """What the other rank has been told since, not done yet."""
        messages = []
        while self._steps.poll():
            messages.append(decoder(ToRank).decode(self._steps.recv_bytes()))
        return messages

    def follow(self) -> None:
        for message in self.heard():
            self.follower.follow(message)

    def keep(self, *names: str) -> None:
        for setting in (self.own, self.other):
            for block_id, name in enumerate(names):
                setting.memory.blocks[block_id] = bytes(content_of(name))
        chain = BlockChain([hash_of(name) for name in names], b"root" * 8, "acme", 1.0, 1)
        self.shared.keep(chain, range(len(names)), range(len(names)), are_hits=False)

    def settle(self) -> None:
        self.follow()
        for setting in (self.own, self.other):
            setting.settle()


@pytest.fixture
def ranks() -> Iterator[TwoRanks]:
    ranks = TwoRanks()
    yield ranks
    ranks.shared.close()
    ranks.follower.close()


def test_a_load_ends_when_all_ranks_have_it_and_has_come_as_far_as_the_last(ranks: TwoRanks) -> None:
    ranks.keep("a", "b", "c")
    ranks.settle()
    ranks.other.offloading.drop([hash_of("c")])
    load = ranks.shared.load([hash_of(name) for name in "abc"], [7, 8, 9], 1.0)
    ranks.own.settle()
    assert ranks.shared.finished() == [], "the other has not heard of it"
    ranks.settle()
    assert ranks.shared.finished() == [load]
    assert load.num_loaded == 2
    for setting in (ranks.own, ranks.other):
        assert [setting.memory.blocks[block_id] for block_id in (7, 8)] == [bytes(content_of(name)) for name in "ab"]
    assert ranks.shared.finished() == []


def test_only_the_part_of_a_chain_that_is_published_travels(ranks: TwoRanks) -> None:
    hashes = [hash_of(number) for number in range(100)]
    chain = BlockChain(hashes, b"root" * 8, "acme", 0.5, 1)
    ranks.shared.keep(chain, [90, 92], [3, 4], are_hits=False)
    (message,) = ranks.heard()
    assert message == KeepBlocks(
        BlockChain(hashes[90:93], hashes[89], "acme", 0.5, 1, first=90), [90, 92], [3, 4], False
    )
    assert message.chain.parent_of(92) == chain.parent_of(92)
    assert message.chain.parent_of(90) == chain.parent_of(90)


def test_a_rank_knows_that_a_block_is_given_up_before_it_may_write_it(ranks: TwoRanks) -> None:
    ranks.keep("a", "b")
    ranks.shared.give_up(0)
    ranks.shared.give_up(1)
    ranks.shared.load([hash_of("x")], [0], 1.0)
    ranks.shared.give_up(2)
    ranks.shared.step_begins()
    ranks.shared.step_begins()
    kinds = [type(message).__name__ for message in ranks.heard()]
    assert kinds == ["KeepBlocks", "GiveUpBlocks", "LoadBlocks", "GiveUpBlocks"]


def test_what_a_rank_copies_of_a_block_that_is_given_up_meanwhile_is_thrown_away(ranks: TwoRanks) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def wait(block_id: int) -> None:
        begun.set()
        assert may_end.wait(60)

    ranks.other.memory.during = wait
    ranks.keep("a")
    ranks.follow()
    assert begun.wait(60)
    ranks.shared.give_up(0)
    ranks.shared.step_begins()
    ranks.follow()
    ranks.other.memory.blocks[0] = bytes(content_of("written by the step"))
    may_end.set()
    ranks.settle()
    assert not ranks.other.offloading.holds(hash_of("a"))


def test_a_load_that_no_sequence_waits_for_stops_on_all_ranks(ranks: TwoRanks) -> None:
    ranks.keep("a", "b", "c")
    ranks.settle()
    load = ranks.shared.load([hash_of(name) for name in "abc"], [7, 8, 9], 1.0)
    load.is_wanted = False
    assert ranks.shared.finished() == ranks.shared.finished() == []
    told = ranks.heard()
    assert [type(message) for message in told[1:]] == [StopLoad], "once"
    begun, may_go_on = threading.Event(), threading.Event()

    def wait(block_id: int) -> None:
        begun.set()
        assert may_go_on.wait(60)

    ranks.other.memory.during = wait
    ranks.follower.follow(told[0])
    assert begun.wait(60)
    ranks.follower.follow(told[1])
    may_go_on.set()
    ranks.settle()
    assert ranks.shared.finished() == [load]
    assert 8 not in ranks.other.memory.blocks


def test_what_an_operator_drops_or_clears_is_gone_on_all_ranks(ranks: TwoRanks) -> None:
    ranks.keep("a", "b")
    ranks.settle()
    ranks.shared.drop([hash_of("b")])
    ranks.settle()
    assert not any(one.offloading.holds(hash_of("b")) for one in (ranks.own, ranks.other))
    assert all(one.offloading.holds(hash_of("a")) for one in (ranks.own, ranks.other))
    ranks.shared.clear()
    ranks.settle()
    assert not any(one.offloading.holds(hash_of("a")) for one in (ranks.own, ranks.other))


def test_a_rank_that_ends_as_it_loads_ends_the_engine(ranks: TwoRanks) -> None:
    ranks.shared.load([hash_of("a")], [1], 1.0)
    ranks.follow()
    ranks._steps.close()
    ranks.other.settle()
    ranks.said.close()
    with pytest.raises(RankLost, match="killed"):
        ranks.shared.finished()
