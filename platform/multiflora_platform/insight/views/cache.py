"""What the prefix cache has, what it saves, and what comes and goes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from multiflora_engine.protocol.messages import TierStats
from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_platform.prices import SavedMoney


class CacheRun(msgspec.Struct, frozen=True, kw_only=True):
    """Successive cached blocks that were used alike. hash: of the last one. digest: of the version that
    computed them, None for the base. adapters: their names that have it. versions: the same as `name@number`; of a
    mix, its recipe. owner: the tenant, None for admins. replica: the engine that has it.
    """

    replica: str
    hash: str
    parent: str | None
    digest: str | None
    adapters: Sequence[str]
    versions: Sequence[str]
    owner: str | None
    tokens: int
    blocks: int
    bytes: int
    hits: int
    age_seconds: float
    idle_seconds: float
    pinned: bool
    referenced: bool


class Saving(msgspec.Struct, frozen=True):
    """What the cache spared one adapter (None: the base) since the start. tokens_again: had been cached, were evicted
    and computed again. device_seconds, seconds_again: of both, estimated from prefills. money: null where no prices are
    set."""

    adapter: str | None
    tokens: int
    device_seconds: float
    tokens_again: int
    seconds_again: float
    money: SavedMoney | None


class CacheAnswer(msgspec.Struct, frozen=True):
    blocks: int
    free: int
    cached: int
    block_size: int
    bytes_per_block: int
    hits_tokens: int
    queries_tokens: int
    evictions: int
    tiers: list[TierStats]
    savings: list[Saving]
    nodes: list[CacheRun]


class CacheEvent(msgspec.Struct, frozen=True):
    """type: stored, removed, or cleared, after which nothing is cached. hashes: of blocks; of stored ones each goes on
    where the one before it ends, and the first behind parent (None: a prompt begins with it; 16 digits, the parent's
    first, where that is not cached itself). tokens: in these blocks. adapter_digest, owner: as a run's, of stored ones.
    seq: of a part of a snapshot, the event's that it stands behind."""

    seq: int
    type: str
    hashes: list[str]
    parent: str | None
    tokens: int
    adapter_digest: str | None
    owner: str | None


class CacheEventPage(msgspec.Struct, frozen=True):
    """Oldest first. next_cursor: to go on with. is_continued: False where the items begin with `cleared` and all that
    is cached, because that was asked for, or because what came after the cursor is not kept any more."""

    items: list[CacheEvent]
    next_cursor: int
    is_continued: bool


class CacheText(msgspec.Struct, frozen=True):
    token_ids: list[int]
    text: str


class CacheTrace(msgspec.Struct, frozen=True):
    """items: of requests that ended since the trace was asked for last. lost: how many more there were. has_more: ask
    again at once."""

    items: list[TracedRequest]
    lost: int
    has_more: bool


class WarmAnswer(msgspec.Struct, frozen=True):
    """Tokens of the prompt that were cached before, and that were computed now; of all its models and engines
    together."""

    cached_tokens: int
    computed_tokens: int
