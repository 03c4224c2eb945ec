"""The identity of a KV block: its content, what of its adapter reaches it, and its tenant, chained.

Torch-free: routers compute it, too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b

from multiflora_adapters.kv_reach import Activation, KvReach
from multiflora_engine.core.moved_spans import MovedSpan

HASH_BYTES = 32


def root_hash(base_digest: str, kv_digest: str | None, cache_salt: str) -> bytes:
    """The parent of every first block. Each field has its tag and its length, so that none can pass for another.

    kv_digest: of the part of an adapter that the KV depends on (multiflora_adapters.kv_reach); None: of none.
    """
    state = blake2b(digest_size=HASH_BYTES, person=b"multiflora.root")
    for tag, value in ((b"B", base_digest), (b"A", kv_digest), (b"S", cache_salt)):
        if value is not None:
            content = value.encode()
            state.update(tag + struct.pack("<Q", len(content)) + content)
    return state.digest()


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The hash of one full block after the block (or root) `parent`; token ids are unsigned 32-bit."""
    content = parent + struct.pack(f"<{len(token_ids)}I", *token_ids)
    return blake2b(content, digest_size=HASH_BYTES, person=b"multiflora.block").digest()


def activated(parent: bytes, activation: Activation, block_size: int) -> bytes:
    """The parent of the block in which an activated LoRA begins: its hash thereby tells adapter and place, too."""
    content = parent + struct.pack("<Q", activation.token % block_size) + activation.kv_digest.encode()
    return blake2b(content, digest_size=HASH_BYTES, person=b"multiflora.activ").digest()


def approximate(parent: bytes, span: MovedSpan) -> bytes:
    """The parent of the block in which KV begins that was computed elsewhere: whatever follows is approximate, and no
    exact prompt finds it."""
    content = parent + struct.pack("<5Q", *span)
    return blake2b(content, digest_size=HASH_BYTES, person=b"multiflora.moved").digest()


def hashes_behind(
    parent: bytes,
    token_ids: Sequence[int],
    block_size: int,
    first: int = 0,
    activation: Activation | None = None,
    moved: Sequence[MovedSpan] = (),
) -> list[bytes]:
    """Of the whole blocks of these tokens, which follow the block, or root, of the parent's hash.

    first: the number of the first of them in its prompt, in which `activation` and `moved` count.
    """
    hashes = []
    # Of blocks that are known by more than tokens, by number: what makes another parent of theirs.
    marks: dict[int, list[Callable[[bytes], bytes]]] = {}
    if activation is not None:
        begins = activation.token // block_size - first
        marks[begins] = [partial(activated, activation=activation, block_size=block_size)]
    for span in moved:
        marks.setdefault(span.start // block_size - first, []).append(partial(approximate, span=span))
    for number in range(len(token_ids) // block_size):
        if marks:
            for mark in marks.get(number, ()):
                parent = mark(parent)
        parent = block_hash(parent, token_ids[number * block_size : (number + 1) * block_size])
        hashes.append(parent)
    return hashes


def identity(
    base_digest: str, reach: KvReach, cache_salt: str, prompt: Sequence[int]
) -> tuple[bytes, Activation | None, int | None]:
    """(the root of a prompt's hashes, where an adapter begins to change them, the first token that it computes)."""
    first = reach.first_token(prompt)
    if first == 0 or first is None or reach.digest is None:
        return root_hash(base_digest, None if first is None else reach.digest, cache_salt), None, first
    return root_hash(base_digest, None, cache_salt), Activation(first, reach.digest), first


def prompt_hashes(
    base_digest: str, reach: KvReach, cache_salt: str, prompt: Sequence[int], block_size: int
) -> list[bytes]:
    """Of all whole blocks of a prompt."""
    root, activation, _ = identity(base_digest, reach, cache_salt, prompt)
    return hashes_behind(root, prompt, block_size, activation=activation)


def chain_of(hashes: Sequence[bytes], num_tokens: int, block_size: int) -> bytes:
    """A prompt's hashes one after another: of those that a prompt of so many tokens can find, so without a block that
    holds its last token."""
    return b"".join(hashes[: max(0, num_tokens - 1) // block_size])
