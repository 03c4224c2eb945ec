"""The hash table of published blocks beside a dictionary, with buckets that hold several and tags that are shared."""

from __future__ import annotations

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


def test_misuse_is_noticed() -> None:
    table = PublishedBlocks(2)
    with pytest.raises(AssertionError, match="shorter"):
        table.add(0, b"short")
    table.add(0, HASHES[0])
    with pytest.raises(AssertionError, match="once"):
        table.add(0, HASHES[1])
    with pytest.raises(AssertionError, match="published"):
        table.hash_of(1)
