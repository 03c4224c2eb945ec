"""What is asked of the prefix cache about one prompt, and the earlier prompt that it is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import ServedModel
from multiflora_platform.insight.drift.parting import num_shared
from multiflora_platform.insight.kept_prompts import KeptPrompt


@dataclass(frozen=True)
class CacheState:
    """What is known of the cache and of the device."""

    cached_tokens: int
    """Of the prompt."""
    block_size: int
    epochs: Mapping[str, int]
    """Of the replica that has computed the prompt, by its id; of all that may, where it is not asked yet."""
    seconds_per_token: float = 0.0
    """Of the device, for a token of a prompt that is not cached."""
    was_evicted: bool = False
    """The first block that is missing gave way to others."""
    wants_all: bool = False
    """It is cached, but the request wants something of every position."""


@dataclass(frozen=True)
class Question:
    ours: KeptPrompt
    """The prompt that is asked about."""
    theirs: KeptPrompt | None
    """The earlier one; None: there is none to compare with."""
    is_named: bool
    """Whoever asks has named the earlier one: they take both for the same conversation."""
    chat: ChatRequest | None
    """What our prompt was made of; None: a text or token ids."""
    state: CacheState
    model: ServedModel

    @property
    def possible(self) -> int:
        """Tokens that a cache can have of the prompt: whole blocks before its last token."""
        return self.whole(len(self.ours.ids) - 1)

    @property
    def shared(self) -> int:
        return 0 if self.theirs is None else num_shared(self.ours.ids, self.theirs.ids)

    def whole(self, tokens: int) -> int:
        """So many of them as whole blocks hold."""
        return tokens // self.state.block_size * self.state.block_size


def closest(ours: KeptPrompt, kept: Iterable[KeptPrompt], state: CacheState) -> KeptPrompt | None:
    """Of the tenant's prompts the newest of those that share most with ours. One of another adapter or salt only where
    its beginning is longer than what all others, and the cache, have."""
    best: tuple[tuple[int, bool, float], KeptPrompt] | None = None
    stranger: tuple[tuple[int, bool, float], KeptPrompt] | None = None
    for one in kept:
        if one.facts.id == ours.facts.id:
            continue
        rank = (num_shared(ours.ids, one.ids), one.facts.kv_digest == ours.facts.kv_digest, one.facts.at)
        if _may_share(one, ours) and one.cache_salt == ours.cache_salt:
            best = max(best or (rank, one), (rank, one), key=lambda pair: pair[0])
        else:
            stranger = max(stranger or (rank, one), (rank, one), key=lambda pair: pair[0])
    least = max(best[0][0] if best else 0, state.cached_tokens) + state.block_size
    if stranger is not None and stranger[0][0] >= least:
        return stranger[1]
    return best[1] if best else None


def _may_share(one: KeptPrompt, other: KeptPrompt) -> bool:
    """Whether they are of one adapter, whatever its version, or have the same KV."""
    return one.facts.adapter == other.facts.adapter or one.facts.kv_digest == other.facts.kv_digest
