"""One request's deltas: read one by one or as they have come, and ended by another than their reader."""

from __future__ import annotations

import asyncio

from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams


class Calls:
    """What the stream asks its client."""

    def __init__(self) -> None:
        self.made: list[tuple[object, ...]] = []

    def abort(self, request_id: str) -> None:
        self.made.append(("abort", request_id))

    def end_sequence(self, request_id: str, index: int) -> None:
        self.made.append(("end", request_id, index))

    def abort_later(self, request_id: str) -> None:
        self.made.append(("later", request_id))


def open_stream(n: int = 1) -> tuple[TokenStream, Calls]:
    calls = Calls()
    request = GenerateRequest(id="r", prompt_token_ids=[1], params=SamplingParams(n=n, max_tokens=9))
    return TokenStream(calls, request), calls


async def test_all_that_has_arrived_is_taken_at_once_and_the_end_is_nothing() -> None:
    stream, calls = open_stream()
    reading = asyncio.create_task(stream.arrived())
    await asyncio.sleep(0)
    deltas = [TokenDelta(request_id="r", token_ids=[i]) for i in range(2)]
    for delta in deltas:
        stream.push(delta)
    assert await reading == deltas
    last = TokenDelta(request_id="r", token_ids=[2], finish_reason="stop")
    stream.push(last)
    assert await stream.arrived() == [last]
    assert await stream.arrived() == []
    assert calls.made == []


async def test_a_cut_ends_what_has_not_ended_and_aborts_once() -> None:
    stream, calls = open_stream(n=3)
    stream.push(TokenDelta(request_id="r", index=1, token_ids=[5], finish_reason="stop"))
    stream.cut()
    stream.cut()
    found = [(delta.index, delta.finish_reason) async for delta in stream]
    assert found == [(1, "stop"), (0, "abort"), (2, "abort")]
    assert calls.made == [("abort", "r")]
    stream.close()
    assert calls.made == [("abort", "r")]


async def test_a_stream_that_was_left_is_not_cut() -> None:
    stream, calls = open_stream()
    stream.close()
    stream.cut()
    assert await stream.arrived() == []
    assert calls.made == [("abort", "r")]
