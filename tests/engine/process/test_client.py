"""The client's own part, against a socket in this process: order, wake-ups, and messages that make no sense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import zmq

from multiflora_engine.process.client import EngineClient, EngineUnavailable
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.messages import (
    PROTOCOL,
    Abort,
    AdapterCommand,
    Deltas,
    EndSequence,
    FromEngine,
    Generate,
    Hello,
    Ready,
    ToEngine,
    Welcome,
    Withdraw,
    Withdrawn,
)
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams


class Engine:
    """The other end of the line."""

    def __init__(self, path: str) -> None:
        self._context = zmq.Context(1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.bind(f"ipc://{path}")

    def send(self, message: FromEngine) -> None:
        self._socket.send(msgspec.msgpack.encode(message))

    def send_bytes(self, frame: bytes) -> None:
        self._socket.send(frame)

    async def receive(self) -> ToEngine:
        for _ in range(500):
            if self._socket.poll(0):
                message: ToEngine = msgspec.msgpack.decode(self._socket.recv(), type=ToEngine)
                return message
            await asyncio.sleep(0.005)
        raise AssertionError("nothing came")

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
async def line(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[EngineClient, Engine]]:
    path = str(Path(tmp_path_factory.mktemp("c")) / "s")
    heard = asyncio.Event()
    client, engine = EngineClient(lambda event: heard.set()), Engine(path)
    client.connect(path)
    assert await engine.receive() == Hello(PROTOCOL, client._name)
    engine.send(Welcome(7, Ready("cpu", "float32", 1, 16, 64, 1, 1, 8, 1, 1), []))
    await heard.wait()
    assert client.ready is not None
    yield client, engine
    client.disconnect(EngineFailure("engine_dead", "over"))
    engine.close()


def _request(name: str, n: int = 1) -> GenerateRequest:
    return GenerateRequest(id=name, prompt_token_ids=[1], params=SamplingParams(n=n, max_tokens=4))


def _delta(name: str, token: int, index: int = 0, last: bool = False) -> TokenDelta:
    return TokenDelta(request_id=name, index=index, token_ids=[token], finish_reason="length" if last else None)


async def test_requests_travel_whole(line: tuple[EngineClient, Engine]) -> None:
    client, engine = line
    request = GenerateRequest(
        id="r",
        prompt_token_ids=[1, 2],
        params=SamplingParams(max_tokens=3, logit_bias={5: 1.5}, stop=("x",), seed=-7),
        adapter_digest="ab",
        bad_word_ids=[[1, 2]],
        deadline=5.5,
    )
    stream = client.generate(request)
    assert await engine.receive() == Generate(request)
    engine.send(Deltas([_delta("r", 3, last=True)]))
    assert [delta.token_ids async for delta in stream] == [[3]]


async def test_one_step_wakes_a_stream_once_and_other_streams_not_at_all(line: tuple[EngineClient, Engine]) -> None:
    client, engine = line
    pair, other = client.generate(_request("pair", n=2)), client.generate(_request("other"))
    waiting = asyncio.create_task(anext(pair)), asyncio.create_task(anext(other))
    await asyncio.sleep(0)
    engine.send(Deltas([_delta("pair", 1), _delta("pair", 2, index=1), _delta("gone", 3)]))
    assert (await waiting[0]).token_ids == [1]
    second = anext(pair)
    with pytest.raises(StopIteration):  # already there: no suspension
        second.__await__().send(None)  # type: ignore[attr-defined]
    assert not waiting[1].done()
    waiting[1].cancel()
    engine.send(Deltas([_delta("pair", 4, last=True), _delta("pair", 5, index=1, last=True)]))
    assert [delta.token_ids async for delta in pair] == [[4], [5]]


async def test_what_the_client_cannot_read_is_dropped(line: tuple[EngineClient, Engine]) -> None:
    client, engine = line
    stream = client.generate(_request("r"))
    engine.send_bytes(b"\xc1")
    engine.send_bytes(msgspec.msgpack.encode({"type": "unheard of"}))
    engine.send(Deltas([_delta("r", 9, last=True)]))
    assert [delta.token_ids async for delta in stream] == [[9]]


async def test_messages_are_noticed_while_the_client_is_busy_sending(line: tuple[EngineClient, Engine]) -> None:
    client, engine = line
    for round_number in range(50):
        stream = client.generate(_request(str(round_number)))
        engine.send(Deltas([_delta(str(round_number), 1, last=True)]))
        client.send(Abort([]))
        async with asyncio.timeout(30):
            assert len([delta async for delta in stream]) == 1


async def test_an_abandoned_stream_aborts_once(line: tuple[EngineClient, Engine]) -> None:
    client, engine = line
    stream = client.generate(_request("r"))
    assert isinstance(await engine.receive(), Generate)
    await stream.aclose()
    await stream.aclose()
    call = asyncio.create_task(client.adapter("unload", "d"))
    assert await engine.receive() == Abort(["r"])
    assert isinstance(await engine.receive(), AdapterCommand)
    call.cancel()


async def test_streams_that_are_left_together_are_aborted_by_one_message(line: tuple[EngineClient, Engine]) -> None:
    client, engine = line
    streams = [client.generate(_request(name)) for name in "abc"]
    for _ in streams:
        assert isinstance(await engine.receive(), Generate)
    for stream in streams:
        stream.close()
    assert await engine.receive() == Abort(["a", "b", "c"])


async def test_adapters_are_in_use_while_the_engine_owes_an_answer(
    line: tuple[EngineClient, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether their requests run or wait. Routers ask for each choice, so that no request is looked at."""
    client, engine = line

    def in_use() -> set[str]:
        with monkeypatch.context() as patch:
            patch.setattr(client, "_streams", None)
            return client.adapters_in_use()

    def send(name: str, adapter: str | None) -> TokenStream:
        return client.generate(msgspec.structs.replace(_request(name, n=2), adapter_digest=adapter))

    client.note_pin("pin", "pinned")
    first, again, base = send("first", "a"), send("again", "a"), send("base", None)
    left, dropped, lost = send("left", "left"), [send("dropped", "dropped")], send("lost", "lost")
    assert in_use() == {"pinned", "a", "left", "dropped", "lost"}
    left.close()
    left.close()
    dropped.clear()
    await asyncio.sleep(0)
    assert in_use() == {"pinned", "a", "lost"}
    engine.send(Deltas([_delta(name, 1, index, last=True) for name in ("first", "base") for index in (0, 1)]))
    assert len([delta async for delta in first]) == len([delta async for delta in base]) == 2
    assert in_use() == {"pinned", "a", "lost"}, "the other one's answer is owed still"
    again.cut()
    assert in_use() == {"pinned", "lost"}
    client.disconnect(EngineFailure("engine_dead", "it is gone"))
    assert in_use() == {"pinned"}
    assert lost.has_failed


async def test_what_an_engine_gives_back_is_anothers_or_is_sent_again(line: tuple[EngineClient, Engine]) -> None:
    client, engine = line
    streams = [client.generate(_request(name)) for name in ("begun", "left", "moved", "kept")]
    for _ in streams:
        await engine.receive()
    engine.send(Deltas([_delta("begun", 5)]))
    await anext(streams[0])
    assert client.not_begun() == streams[1:]
    rescued = []

    def rescue(stream: TokenStream) -> bool:
        rescued.append(stream.request.id)
        return stream.request.id == "moved"

    client.rescue = rescue
    client.ask_back(["left", "moved", "kept"])
    assert await engine.receive() == Withdraw(["left", "moved", "kept"])
    streams[1].close()
    assert await engine.receive() == Abort(["left"])
    engine.send(Withdrawn(["left", "moved", "kept"]))
    assert await engine.receive() == Generate(_request("kept"))
    assert rescued == ["moved", "kept"]
    assert client.in_flight == 2
    engine.send(Deltas([_delta("kept", 7, last=True)]))
    assert [delta.token_ids async for delta in streams[3]] == [[7]]


async def test_a_sequence_ends_without_the_others(line: tuple[EngineClient, Engine]) -> None:
    client, engine = line
    stream = client.generate(_request("r", n=3))
    assert isinstance(await engine.receive(), Generate)
    engine.send(Deltas([_delta("r", 1, index=0), _delta("r", 2, index=1, last=True)]))
    assert (await anext(stream)).index == 0
    stream.end(0)
    stream.end(0)
    assert await engine.receive() == EndSequence("r", 0)
    stream.end(1)  # it has ended by itself
    stream.end(2)
    assert await engine.receive() == Abort(["r"])
    assert [delta.index async for delta in stream] == [1], "what had come before is not lost"
    assert client.in_flight == 0


async def test_a_lost_line_ends_streams_and_calls(line: tuple[EngineClient, Engine]) -> None:
    client, _ = line
    stream = client.generate(_request("r", n=2))
    call = asyncio.create_task(client.status())
    await asyncio.sleep(0)
    client.disconnect(EngineFailure("engine_dead", "it is gone"))
    deltas = [delta async for delta in stream]
    assert [(d.index, d.failure and d.failure.message) for d in deltas] == [(0, "it is gone"), (1, "it is gone")]
    with pytest.raises(EngineUnavailable, match="it is gone"):
        await call
    with pytest.raises(EngineUnavailable) as caught:
        client.generate(_request("later"))
    assert caught.value.code == "engine_unavailable"
