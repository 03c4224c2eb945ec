"""The hash table of published blocks beside a dictionary, with buckets that hold several and tags that are shared."""

from __future__ import annotations

import hashlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_engine.cache.published_blocks import TAG_BYTES, PublishedBlocks

# Four tags of five hashes each.
TAGS = [bytes([number]) * TAG_BYTES for number in range(4)]
HASHES = [tag + bytes([number]) * (HASH_BYTES - TAG_BYTES) for tag in TAGS for number in range(5)]


@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 8), st.sampled_from(HASHES) | st.none())))
def test_against_a_dictionary(num_blocks: int, changes: list[tuple[int, bytes | None]]) -> None:
    """A block is published under a hash, or, where there is none, no more."""
    table = PublishedBlocks(num_blocks)
    model: dict[bytes, int] = {}
    for block_id, hash in changes:
        if block_id >= num_blocks:
            continue
        if hash is None and block_id in model.values():
            table.remove(block_id)
            model = {other: where for other, where in model.items() if where != block_id}
        elif hash is not None and block_id not in model.values():
            assert table.add(block_id, hash) == (hash not in model)
            model.setdefault(hash, block_id)
        assert len(table) == len(model)
        assert [table.find(hash) for hash in HASHES] == [model.get(hash) for hash in HASHES]
        for where in range(num_blocks):
            assert (where in table) == (where in model.values())
        for known, where in model.items():
            assert table.hash_of(where) == known
            assert int(table.tags[where]) == int.from_bytes(known[:TAG_BYTES], "little")
        for tag in TAGS:
            holders = {where for known, where in model.items() if known.startswith(tag)}
            assert table.find(tag) in (holders or {None})


@pytest.mark.parametrize("shared", [0, 1, 3])
def test_many_at_once_are_added_as_one_by_one_they_would_be(shared: int) -> None:
    """Of 300 contents some are published already; `shared` of ten have one tag."""
    random = Random(shared)
    known = [_hash(number - number % 10 if number % 10 < shared else number, number) for number in range(300)]
    for calls in (1, 2, 5):
        num_blocks = 40 * calls + 1
        together, alone = PublishedBlocks(num_blocks), PublishedBlocks(num_blocks)
        unused = iter(range(num_blocks))
        for size in random.choices(range(32, 41), k=calls):
            hashes = random.sample(known, size)
            block_ids = [next(unused) for _ in hashes]
            added = [place for place, hash in enumerate(hashes) if alone.add(block_ids[place], hash)]
            assert together.add_all(block_ids, hashes) == added
        assert [together.find(hash) for hash in known] == [alone.find(hash) for hash in known]
        for block_id in [block_id for block_id in range(num_blocks) if block_id in together]:
            together.remove(block_id)
        assert len(together) == 0
        assert [hash for hash in known if together.find(hash) is not None] == []


def test_many_fill_a_large_table_at_once() -> None:
    table = PublishedBlocks(4096)
    hashes = [_hash(number, number) for number in range(4096)]
    for start in range(0, 4096, 64):
        assert table.add_all(range(start, start + 64), hashes[start : start + 64]) == list(range(64))
    assert [table.find(hash) for hash in hashes] == list(range(4096))
    assert len(table) == 4096


def test_the_same_content_twice_in_a_call_is_published_once() -> None:
    table = PublishedBlocks(64)
    hashes = [_hash(number, number) for number in range(32)]
    assert table.add_all(range(33), [*hashes, hashes[7]]) == list(range(32))
    assert table.find(hashes[7]) == 7


def _hash(tag: int, rest: int) -> bytes:
    return hashlib.blake2b(bytes([tag % 256, tag // 256]), digest_size=TAG_BYTES).digest() + rest.to_bytes(
        HASH_BYTES - TAG_BYTES, "big"
    )


def test_misuse_is_noticed() -> None:
    table = PublishedBlocks(40)
    with pytest.raises(AssertionError, match="shorter"):
        table.add(0, b"short")
    with pytest.raises(AssertionError, match="shorter"):
        table.add_all(range(40), [*HASHES[:19], b"short"] * 2)
    table.add(0, HASHES[0])
    with pytest.raises(AssertionError, match="once"):
        table.add(0, HASHES[1])
    with pytest.raises(AssertionError, match="once"):
        table.add_all(range(40), HASHES * 2)
    with pytest.raises(AssertionError, match="published"):
        table.hash_of(1)
