"""Hits of contexts are counted once, whatever becomes of the write, and wake no keeper."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.platform.gateway.background.conftest import ContextHouse

from multiflora_platform.contexts.context_use import ContextUse
from multiflora_platform.contexts.service import Contexts


async def hits(contexts: ContextHouse) -> tuple[int, int]:
    """As this server shows them, and as the database has them."""
    book = contexts.house.services.contexts.book
    (entry,) = book.all()
    again = await Contexts.open(contexts.registry.database, contexts.registry.follower)
    (read,) = again.book.all()
    return book.use(entry).hits, read.use.hits


async def hit(contexts: ContextHouse, times: int) -> Any:
    await contexts.put("rules")
    book = contexts.house.services.contexts.book
    for _ in range(times):
        book.count(book.all()[0].id, ContextUse(hits=1))
    return book


async def test_a_write_that_fails_counts_nothing(contexts: ContextHouse) -> None:
    book = await hit(contexts, 2)

    async def fail(change: Any) -> None:
        raise RuntimeError("no")

    contexts.registry.database.before_commit.append(fail)
    with pytest.raises(RuntimeError):
        await book.flush()
    assert await hits(contexts) == (2, 0)
    contexts.registry.database.before_commit.remove(fail)
    for _ in range(2):
        await book.flush()
        assert await hits(contexts) == (2, 2)


async def test_a_flush_whose_caller_leaves_counts_once(contexts: ContextHouse) -> None:
    book = await hit(contexts, 1)
    left = asyncio.create_task(book.flush())
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    await book.flush()
    assert await hits(contexts) == (1, 1)


async def test_counts_are_nothing_that_the_keeper_waits_for(contexts: ContextHouse) -> None:
    book = await hit(contexts, 3)
    definition = book.all()[0].definition
    book.changed.clear()
    await book.flush()
    assert not book.changed.is_set()
    assert await hits(contexts) == (3, 3)
    assert book.all()[0].definition is definition, "nothing was decoded again"
