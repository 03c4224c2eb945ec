"""The events of one request's prompts brought together: into complete answers, or into one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from multiflora_engine.protocol.requests import PositionLogprobs
from multiflora_platform.gateway.generation.generation import Generation, TextEvent
from multiflora_platform.web.openai_errors import ApiError, internal_error


@dataclass
class Answer:
    """One complete answer."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def add(self, event: TextEvent) -> None:
        self.text += event.text
        self.token_ids += event.token_ids
        if event.logprobs is not None:
            self.logprobs = (self.logprobs or []) + event.logprobs
        self.finish_reason, self.stop_reason = event.finish_reason, event.stop_reason

    @property
    def mean_logprob(self) -> float:
        values = [position.chosen.logprob for position in self.logprobs or ()]
        return sum(values) / max(len(values), 1)


async def collect(generation: Generation) -> list[Answer]:
    """The n answers to return, best first where best_of made more than n. Raises ApiError."""
    params = generation.request.params
    answers = [Answer(index) for index in range(params.num_sequences)]
    async for event in generation.events():
        answers[event.index].add(event)
    if params.num_sequences > params.n:
        answers = sorted(answers, key=lambda answer: -answer.mean_logprob)[: params.n]
        for index, answer in enumerate(answers):
            answer.index = index
    return answers


async def collect_all(generations: Sequence[Generation]) -> list[list[Answer]]:
    """All prompts of one request; the first failure ends the others."""
    if len(generations) == 1:
        return [await collect(generations[0])]
    tasks = [asyncio.ensure_future(collect(generation)) for generation in generations]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def merge(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, TextEvent], None]:
    """(which prompt, event) of all prompts as they come. Raises the first failure."""
    if len(generations) == 1:
        async for event in generations[0].events():
            yield 0, event
        return
    queue: asyncio.Queue[tuple[int, TextEvent] | ApiError | None] = asyncio.Queue()

    async def feed(number: int, generation: Generation) -> None:
        try:
            async for event in generation.events():
                queue.put_nowait((number, event))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error if isinstance(error, ApiError) else internal_error())

    tasks = [asyncio.ensure_future(feed(number, generation)) for number, generation in enumerate(generations)]
    try:
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


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
