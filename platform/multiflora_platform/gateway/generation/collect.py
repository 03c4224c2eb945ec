"""One request's prompts brought together, as long as its client stays: into complete answers, or into one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from starlette.types import Receive

from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.text.assembler import TextDelta
from multiflora_platform.text.best_answers import Answer, best_answers
from multiflora_platform.web.openai_errors import ApiError, ClientGone, internal_error

Event = tuple[int, TextDelta]
"""(which prompt, what its answer gains)."""
Result = TypeVar("Result")
AT_ONCE = 16
"""Prompts of one request that are begun, or left, before other requests get their turn."""


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The work's result. receive: the request's. Raises ClientGone, with the work cancelled, when the client leaves."""
    watching = asyncio.ensure_future(_disconnected(receive))
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        working.cancel()
        watching.cancel()
        # Awaited, too: a cancelled task that is left alone may still run when the loop closes.
        await asyncio.gather(working, watching, return_exceptions=True)


async def collect(generation: Generation) -> list[Answer]:
    """The n answers to return, best first where best_of made more than n. Raises ApiError."""
    params = generation.request.params
    answers = [Answer(index) for index in range(params.num_sequences)]
    async for delta in generation.events():
        answers[delta.index].add(delta)
    return best_answers(answers, params.n)


async def collect_all(generations: Sequence[Generation]) -> list[list[Answer]]:
    """All prompts of one request; the first failure ends the others."""
    if len(generations) == 1:
        return [await collect(generations[0])]
    tasks: list[asyncio.Task[list[Answer]]] = []
    try:
        await _begin(tasks, map(collect, generations))
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def merge(generations: Sequence[Generation]) -> AsyncGenerator[Event, None]:
    """The events of all prompts as they come. Raises the first failure."""
    if len(generations) == 1:
        async for delta in generations[0].events():
            yield 0, delta
        return
    queue: asyncio.Queue[Event | ApiError | None] = asyncio.Queue()

    async def feed(number: int, generation: Generation) -> None:
        try:
            async for delta in generation.events():
                queue.put_nowait((number, delta))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error if isinstance(error, ApiError) else internal_error())

    tasks: list[asyncio.Task[None]] = []
    try:
        await _begin(tasks, (feed(number, generation) for number, generation in enumerate(generations)))
        ended = 0
        while ended < len(tasks):
            item = await queue.get()
            if isinstance(item, ApiError):
                raise item
            if item is None:
                ended += 1
            else:
                yield item
    finally:
        await _cancel(tasks)


async def first_event(events: AsyncGenerator[Event, None]) -> Event:
    """Raises ApiError."""
    try:
        return await anext(events)
    except StopAsyncIteration:
        raise internal_error() from None


async def chain(first: Event, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """All events again, of which the first has been taken."""
    try:
        yield first
        async for event in events:
            yield event
    finally:
        await events.aclose()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _begin(tasks: list[asyncio.Task[Result]], work: Iterable[Coroutine[Any, Any, Result]]) -> None:
    for one in work:
        tasks.append(asyncio.create_task(one))
        if len(tasks) % AT_ONCE == 0:
            await asyncio.sleep(0)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for first in range(0, len(tasks), AT_ONCE):
        few = tasks[first : first + AT_ONCE]
        for task in few:
            task.cancel()
        await asyncio.gather(*few, return_exceptions=True)
