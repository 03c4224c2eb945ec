from collections import Counter

import hypothesis.strategies as st
from hypothesis import given, settings
from tests.engine.offload.copies import hash_of, kept

from multiflora_engine.offload.tier_slots import TierSlots

NOW = 1_000


def fill(slots: TierSlots, name: object, limit: int | None = None, **known: object) -> int | None:
    block = kept(name, **known)  # type: ignore[arg-type]
    slot = slots.reserve(block.owner, limit)
    if slot is not None:
        slots.fill(slot, block)
    return slot


def test_the_longest_unused_goes_first_and_the_beginning_of_a_prompt_last() -> None:
    slots = TierSlots(4)
    for depth in range(4):
        fill(slots, depth, depth=depth)
    slots.use([hash_of(depth) for depth in range(4)], counts=False, now=NOW)
    fill(slots, "new")
    assert [slots.find(hash_of(depth)) is not None for depth in range(4)] == [True, True, True, False]
    assert slots.evictions == 1


def test_what_is_used_again_outlives_what_came_once() -> None:
    slots = TierSlots(4)
    fill(slots, "hot")
    slots.use([hash_of("hot")], counts=True, now=NOW)
    for number in range(12):
        fill(slots, number)
    assert slots.find(hash_of("hot")) is not None


def test_what_only_the_background_used_goes_first() -> None:
    slots = TierSlots(3)
    for name, uses in (("a", 1), ("background", 0), ("b", 1)):
        fill(slots, name, uses=uses)
    fill(slots, "new")
    assert slots.find(hash_of("background")) is None


def test_one_owner_cannot_push_out_the_others() -> None:
    slots = TierSlots(8)
    fill(slots, "small", owner="small")
    for number in range(50):
        fill(slots, number, owner="flood")
    assert slots.find(hash_of("small")) is not None


def test_an_owner_at_its_limit_gives_up_its_own() -> None:
    slots = TierSlots(8)
    fill(slots, "other", owner="other")
    for number in range(20):
        fill(slots, number, owner="acme", limit=3)
    acme = kept(0, owner="acme").owner
    assert (slots.held(acme), len(slots)) == (3, 4)
    assert slots.find(hash_of(19)) is not None


def test_a_use_is_worth_writing_once_a_minute_or_when_it_counts() -> None:
    slots = TierSlots(2)
    slot = fill(slots, "a")
    assert slots.use([hash_of("a")], counts=False, now=NOW) == [slot]
    assert slots.use([hash_of("a")], counts=False, now=NOW + 59) == []
    assert slots.use([hash_of("a")], counts=False, now=NOW + 60) == [slot]
    assert [slots.use([hash_of("a")], counts=True, now=NOW + 61) for _ in range(5)] == [[slot]] * 3 + [[], []]


def test_all_that_continues_a_block_is_found() -> None:
    slots = TierSlots(8)
    for name, parent in ((1, "root"), (2, 1), (3, 2), ("fork", 1), ("other", "root")):
        fill(slots, name, parent=parent)
    assert {*slots.behind([hash_of(1)])} == {hash_of(name) for name in (1, 2, 3, "fork")}
    slots.discard(hash_of(2))
    assert {*slots.behind([hash_of(2)])} == {hash_of(3)}, "it is gone itself, and what is behind it is found"


ACTIONS = st.tuples(st.sampled_from(["fill", "fail", "use", "discard", "shrink", "grow"]), st.integers(0, 9))


@settings(max_examples=30, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_slots_are_neither_lost_nor_given_twice(actions: list[tuple[str, int]]) -> None:
    slots, given = TierSlots(5), set[int]()
    for action, name in actions:
        match action:
            case "fill" if slots.find(hash_of(name)) is None:
                fill(slots, name, owner=f"owner {name % 3}", limit=3)
            case "fail" if (slot := slots.reserve(kept(name).owner)) is not None:
                slots.give_back(slot)
            case "shrink" if (slot := slots.reserve(kept(name).owner)) is not None:
                slots.stop_growing() if slots.is_first_use(slot) else slots.give_back(slot)
            case "grow":
                slots.grow_again()
            case "use":
                slots.use([hash_of(name)], counts=bool(name % 2), now=NOW)
            case "discard":
                slots.discard(hash_of(name))
        held = {hash_of(name): slot for name in range(10) if (slot := slots.find(hash_of(name))) is not None}
        assert len(held) == len(slots) <= slots.capacity
        assert all(slots.block(slot).hash == hash for hash, slot in held.items())
        assert max(Counter(held.values()).values(), default=1) == 1
        owners = Counter(slots.block(slot).owner for slot in held.values())
        assert all(slots.held(owner) == count <= 3 for owner, count in owners.items())
        given |= set(held.values())
    assert given <= set(range(5))
