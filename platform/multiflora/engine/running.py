"""A request of an asyncio program while it runs: its stream, how another task ends it, and what its failures raise."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from multiflora.collector import Collector
from multiflora.engine.background import EngineDeadError
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.requests import TokenDelta
from multiflora_platform.gateway.beams.stream import BeamStream


@dataclass
class RunningRequest:
    """One request, from its first await to its end."""

    loop: asyncio.AbstractEventLoop
    # None while its prompt is made ready.
    stream: TokenStream | BeamStream | None = None

    def cut(self) -> None:
        """From any thread."""
        if self.stream is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.stream.cut)

    def end(self) -> None:
        if self.stream is not None:
            self.stream.close()


async def take(stream: TokenStream | BeamStream, collector: Collector) -> None:
    """What has come, at least one delta. Raises ValueError and EngineDeadError for those failures."""
    deltas = await stream.arrived()
    assert deltas, "a stream ends with each sequence's finish_reason"
    for delta in deltas:
        raise_failure(delta)
        if collector.push(delta):
            stream.end(delta.index)


def raise_failure(delta: TokenDelta) -> None:
    """Of the request or of the whole engine; an adapter's stands in the output, as LLM has it."""
    if delta.failure is None:
        return
    if delta.failure.code == "invalid_request":
        raise ValueError(delta.failure.message)
    if delta.failure.code in ("engine_dead", "engine_unavailable"):
        raise EngineDeadError(delta.failure.message)
