"""How much of the KV cache contexts may hold: a tenant's, and all together."""

from __future__ import annotations

from collections.abc import Iterable
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
    """Of the engine."""
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


def require_room(
    entries: Iterable[ContextEntry],
    key: ContextKey,
    definition: ContextDefinition,
    room: HoldRoom | None,
    now: datetime,
) -> None:
    """Raises ContextBudgetFull where the context, new or changed, does not fit beside the others.

    room: None while the engine's size is not known; the keeper then holds what fits.
    """
    others = [entry for entry in entries if entry.key != key]
    own = [entry for entry in others if entry.key[0] == key[0]]
    if len(own) >= MOST_CONTEXTS:
        raise ContextBudgetFull(f"There are {len(own)} contexts, and at most {MOST_CONTEXTS} may be; delete some.")
    if room is None or not definition.pin:
        return
    size, asked = room.block_size, definition.blocks(room.block_size)
    held = _held(own, size, now)
    if held + asked > room.blocks:
        raise ContextBudgetFull(
            f"The context takes {_tokens(asked, size)} beside {_tokens(held, size)} that others hold; the budget is "
            f"{_tokens(room.blocks, size)} ({room.share:.0%} of the cache, --context-budget). Delete or shorten one, "
            "name fewer adapters, or send pin: false."
        )
    if asked + _held(others, size, now) > room.all_blocks:
        raise ContextBudgetFull(
            f"The context takes {_tokens(asked, size)}; the contexts of all tenants together may take three "
            "eighths of the cache, and less is left of that. Shorten it, or send pin: false."
        )


def _held(entries: Iterable[ContextEntry], block_size: int, now: datetime) -> int:
    return sum(entry.definition.blocks(block_size) for entry in entries if entry.is_pinned(now))


def _tokens(blocks: int, block_size: int) -> str:
    return f"{blocks * block_size} tokens"
