"""How much of a base model's KV cache contexts may hold: a tenant's, and all together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from multiflora_platform.contexts.content import ContextDefinition
from multiflora_platform.contexts.context_problems import ContextBudgetFull
from multiflora_platform.contexts.entry import ContextEntry, ContextKey

MOST_CONTEXTS = 256
"""Of a tenant, held or not."""
# The engine lets pins take half of the blocks, so that requests can run. Contexts may have three quarters of that, and
# what requests mark the rest.
_CONTEXTS_SHARE, _HINTS_SHARE = 0.375, 0.125


@dataclass(frozen=True)
class HoldRoom:
    """Of one tenant; blocks that two of its contexts share count for both."""

    num_blocks: int
    """Of an engine."""
    block_size: int
    share: float
    """Of all blocks, what the tenant may hold."""

    @property
    def blocks(self) -> int:
        return int(self.num_blocks * self.share)

    @property
    def all_blocks(self) -> int:
        """For contexts of all tenants together."""
        return int(self.num_blocks * _CONTEXTS_SHARE)

    @property
    def hints(self) -> int:
        """For what requests of all tenants together mark."""
        return int(self.num_blocks * _HINTS_SHARE)


def hold_room(num_blocks: int, block_size: int, budget: float, kv_share: float) -> HoldRoom:
    """budget: the setting. A tenant may not hold more than half of what it may have at all, or its requests could not
    run."""
    return HoldRoom(num_blocks, block_size, min(budget, kv_share / 2))


@dataclass(frozen=True)
class BaseRoom:
    """What a tenant may hold in the cache of one base model, and what contexts take of it."""

    base: str
    """The base model's name."""
    digest: str
    """Of the base model."""
    room: HoldRoom
    num_models: Callable[[ContextDefinition], int]
    """How many of a context's models are of this base model."""

    def blocks(self, definition: ContextDefinition) -> int:
        """That the context takes when all of it is cached, for each of its models here."""
        return definition.tokens_on(self.digest) // self.room.block_size * self.num_models(definition)

    def tokens(self, blocks: int) -> str:
        return f"{blocks * self.room.block_size} tokens"


def require_room(
    entries: Iterable[ContextEntry],
    key: ContextKey,
    definition: ContextDefinition,
    rooms: Iterable[BaseRoom],
    now: datetime,
) -> None:
    """Raises ContextBudgetFull where the context, new or changed, does not fit beside the others.

    rooms: of the base models whose engines' size is known; in the others the keeper holds what fits.
    """
    others = [entry for entry in entries if entry.key != key]
    own = [entry for entry in others if entry.key[0] == key[0]]
    if len(own) >= MOST_CONTEXTS:
        raise ContextBudgetFull(f"There are {len(own)} contexts, and at most {MOST_CONTEXTS} may be; delete some.")
    for room in rooms if definition.pin else ():
        _require_one(room, definition, *(_held(room, ones, now) for ones in (own, others)))


def _require_one(base: BaseRoom, definition: ContextDefinition, held: int, held_by_all: int) -> None:
    """held: blocks, of the tenant's other contexts. held_by_all: those of all tenants. Raises ContextBudgetFull."""
    room, asked = base.room, base.blocks(definition)
    if asked and held + asked > room.blocks:
        raise ContextBudgetFull(
            f"The context takes {base.tokens(asked)} beside {base.tokens(held)} that others hold; the budget is "
            f"{base.tokens(room.blocks)} ({room.share:.0%} of {base.base!r}'s cache, --context-budget). Delete or "
            "shorten one, name fewer adapters, or send pin: false."
        )
    if asked and asked + held_by_all > room.all_blocks:
        raise ContextBudgetFull(
            f"The context takes {base.tokens(asked)}; the contexts of all tenants together may take three "
            f"eighths of {base.base!r}'s cache, and less is left of that. Shorten it, or send pin: false."
        )


def _held(room: BaseRoom, entries: Iterable[ContextEntry], now: datetime) -> int:
    return sum(room.blocks(entry.definition) for entry in entries if entry.is_pinned(now))
