"""Hashes that cover all that KV depends on, and who may read which block when."""

from __future__ import annotations

import itertools
from array import array
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.engine.simulated_tiers import SimulatedTiers

from multiflora_adapters.kv_reach import BASE_KV, KvReach
from multiflora_engine.cache.block_hashes import block_hash, hashes_behind, identity, prompt_hashes, root_hash
from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_index import CacheIndex
from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

BLOCK = 4


def make_sequence(prompt: list[int], salt: str = "", adapter: str | None = None, **params: Any) -> Sequence:
    request = GenerateRequest(
        id="r",
        prompt_token_ids=prompt,
        params=SamplingParams(max_tokens=8, **params),
        cache_salt=salt,
        adapter_digest=adapter,
    )
    (sequence,) = make_sequences(request, 0)
    sequence.kv_digest, sequence.root_hash = adapter, root_hash("base", adapter, salt)
    return sequence


def start(cache: PrefixCache, pool: BlockPool, sequence: Sequence) -> list[int]:
    """What the scheduler does when a sequence starts; returns the hits."""
    sequence.block_hashes += cache.new_hashes(sequence)
    hits = cache.hits(sequence)
    pool.share(hits)
    sequence.block_table = array("i", hits + pool.allocate(-(-sequence.num_tokens // BLOCK) - len(hits)))
    sequence.num_computed_tokens = len(hits) * BLOCK
    cache.announce(sequence)
    return hits


def compute(cache: PrefixCache, sequence: Sequence, end: int) -> None:
    first = sequence.num_computed_tokens // BLOCK
    sequence.num_computed_tokens = end
    cache.publish(sequence, first, end // BLOCK)


def make_cache(enabled: bool = True, tiers: SimulatedTiers | None = None) -> tuple[PrefixCache, BlockPool]:
    index = CacheIndex(32, BLOCK)
    pool = BlockPool(32, on_evict=index.on_evict)
    return PrefixCache(pool, index, "base", BLOCK, enabled, tiers), pool


def test_no_two_kinds_of_identity_collide() -> None:
    names = ["", "x", "A", "S", "xx", "x\0S", "Ax"]
    roots = [root_hash(b, a, s) for b, a, s in itertools.product(names, [None, *names], names)]
    assert len(set(roots)) == len(roots)


@given(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6), st.text(max_size=6))
def test_a_salt_never_looks_like_an_adapter(adapter: str, salt: str, other_adapter: str, other_salt: str) -> None:
    same = (adapter, salt) == (other_adapter, other_salt)
    assert (root_hash("b", adapter, salt) == root_hash("b", other_adapter, other_salt)) == same
    assert root_hash("b", None, salt) != root_hash("b", other_adapter, other_salt)


def test_a_block_hash_depends_on_parent_and_every_token() -> None:
    root = root_hash("b", None, "")
    tokens = [1, 2, 3, 4]
    reference = block_hash(root, tokens)
    assert block_hash(reference, tokens) != reference
    for position in range(4):
        changed = list(tokens)
        changed[position] += 256
        assert block_hash(root, changed) != reference
    assert reference != root


def test_hashes_are_made_once_and_only_for_full_blocks() -> None:
    cache, _ = make_cache()
    sequence = make_sequence(list(range(2 * BLOCK + 1)))
    sequence.block_hashes += cache.new_hashes(sequence)
    assert len(sequence.block_hashes) == 2
    assert cache.new_hashes(sequence) == []
    for token in range(BLOCK - 1):
        sequence.append_token(token)
    whole = make_sequence(sequence.token_ids)
    assert sequence.block_hashes + cache.new_hashes(sequence) == cache.new_hashes(whole)


def test_the_last_prompt_token_is_always_computed() -> None:
    cache, pool = make_cache()
    first = make_sequence(list(range(2 * BLOCK)))
    start(cache, pool, first)
    compute(cache, first, 2 * BLOCK)
    assert len(start(cache, pool, make_sequence(list(range(2 * BLOCK))))) == 1
    assert len(start(cache, pool, make_sequence(list(range(2 * BLOCK + 1))))) == 2


def test_only_computed_blocks_are_hit() -> None:
    cache, pool = make_cache()
    prompt = list(range(3 * BLOCK + 1))
    first = make_sequence(prompt)
    start(cache, pool, first)
    for end, hits in ((3, 0), (BLOCK, 1), (3 * BLOCK - 1, 2), (3 * BLOCK, 3)):
        compute(cache, first, end)
        other = make_sequence(prompt)
        other.block_hashes += cache.new_hashes(other)
        assert cache.hits(other) == list(first.block_table[:hits])


def test_salts_and_adapters_do_not_share() -> None:
    cache, pool = make_cache()
    prompt = list(range(2 * BLOCK + 1))
    first = make_sequence(prompt, salt="x")
    start(cache, pool, first)
    compute(cache, first, 2 * BLOCK)
    assert len(start(cache, pool, make_sequence(prompt, salt="x"))) == 2
    for salt, adapter in (("", None), ("", "x"), ("x", "x"), ("y", None)):
        assert start(cache, pool, make_sequence(prompt, salt=salt, adapter=adapter)) == []


def test_prompt_logprobs_read_nothing_and_publish_all() -> None:
    cache, pool = make_cache()
    prompt = list(range(2 * BLOCK + 1))
    first = make_sequence(prompt, prompt_logprobs=1)
    start(cache, pool, first)
    compute(cache, first, 2 * BLOCK)
    second = make_sequence(prompt, prompt_logprobs=1)
    assert start(cache, pool, second) == []
    assert cache.pending_block(second, 0) is None
    assert len(start(cache, pool, make_sequence(prompt))) == 2


def test_a_block_is_awaited_from_announcement_to_publication() -> None:
    cache, pool = make_cache()
    prompt = list(range(2 * BLOCK + 1))
    first, other = make_sequence(prompt), make_sequence(prompt)
    other.block_hashes += cache.new_hashes(other)
    assert cache.pending_block(other, 0) is None
    start(cache, pool, first)
    assert cache.pending_block(other, 0) == first.block_hashes[0]
    compute(cache, first, BLOCK)
    assert cache.pending_block(other, 1) == first.block_hashes[1]
    assert not cache.is_computing(first.block_hashes[0])
    cache.retract(first)
    assert cache.pending_block(other, 1) is None


def test_retracting_leaves_what_others_compute() -> None:
    cache, pool = make_cache()
    shared = list(range(BLOCK))
    first, second = make_sequence([*shared, 50, 51, 52, 53, 54]), make_sequence([*shared, 60, 61, 62, 63, 64])
    start(cache, pool, first)
    start(cache, pool, second)
    cache.retract(second)
    assert cache.is_computing(first.block_hashes[0])
    assert cache.is_computing(first.block_hashes[1])
    assert not cache.is_computing(second.block_hashes[1])


def test_what_a_requests_first_sequence_computed_is_no_hit_of_its_others() -> None:
    """Nor is it for the copies behind the device: what many continuations were asked of is not used more often."""
    tiers = SimulatedTiers([None] * 32 * BLOCK, BLOCK)
    cache, pool = make_cache(tiers=tiers)
    prompt = list(range(10))
    for index in (0, 1, 2):
        sequence = make_sequence(prompt)
        sequence.index = index
        assert len(start(cache, pool, sequence)) == (2 if index else 0)
        cache.record_start(sequence, 2 if index else 0)
        compute(cache, sequence, 10)
    assert tiers.hits == []
    another = make_sequence(prompt)
    start(cache, pool, another)
    cache.record_start(another, 2)
    assert tiers.hits == another.block_hashes


def test_disabled_means_no_hashes_at_all() -> None:
    cache, pool = make_cache(enabled=False)
    sequence = make_sequence(list(range(2 * BLOCK + 1)))
    assert start(cache, pool, sequence) == []
    compute(cache, sequence, 2 * BLOCK)
    assert sequence.block_hashes == []
    assert pool.num_published == 0


@given(st.lists(st.integers(0, 2), max_size=24), st.lists(st.integers(0, 2), min_size=1, max_size=3), st.booleans())
def test_an_activated_prompt_shares_with_the_base_before_it_begins(
    ids: list[int], invocation: list[int], is_equal: bool
) -> None:
    """Blocks from there on are its own, of this adapter and this place; hashed in parts they are the same."""
    reach = KvReach("k", tuple(invocation))
    other = KvReach("k" if is_equal else "l", tuple(invocation))
    ours, theirs, base = (prompt_hashes("base", one, "s", ids, BLOCK) for one in (reach, other, BASE_KV))
    found = [at for at in range(len(ids)) if ids[at : at + len(invocation)] == invocation]
    assert reach.first_token(ids) == max(found, default=None)
    same = len(ids) // BLOCK if not found else max(found) // BLOCK
    assert ours[:same] == base[:same]
    assert not set(ours[same:]) & set(base)
    assert (ours == theirs) == (is_equal or same == len(ours))
    root, activation, _ = identity("base", reach, "s", ids)
    for split in range(len(ids) // BLOCK + 1):
        head = hashes_behind(root, ids[: split * BLOCK], BLOCK, 0, activation)
        assert head + hashes_behind([root, *head][-1], ids[split * BLOCK :], BLOCK, split, activation) == ours


def test_the_same_tokens_activated_elsewhere_are_another_block() -> None:
    ids = list(range(8))
    hashes = {prompt_hashes("base", KvReach("k", (at,)), "", ids, BLOCK)[1] for at in range(1, 8)}
    assert len(hashes) == 7
