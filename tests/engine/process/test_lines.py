"""An engine process that gateways reach by tcp: who is heard, what is readable, cuts, and several gateways at once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import zmq
from tests.engine.process.tcp_proxy import cable_to

from multiflora_engine.process.client import EngineClient
from multiflora_engine.process.supervisor import EngineFailed, EngineSupervisor, Patience
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.lines import EngineAddress, Listen
from multiflora_engine.protocol.messages import Shutdown
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams

FAKE = str(Path(__file__).with_name("fake_engine.py"))
TOKEN = 0x1234567
OVER = EngineFailure("engine_dead", "over")
ENGINE, GATEWAYS, STRANGER = (zmq.curve_keypair() for _ in range(3))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def address(
    port: int, keys: tuple[bytes, bytes] = GATEWAYS, engine: bytes = ENGINE[0], timeout: float = 300.0
) -> EngineAddress:
    public, secret = (key.decode() for key in keys)
    return EngineAddress(f"tcp://127.0.0.1:{port}", engine.decode(), public, secret, timeout)


@dataclass
class Far:
    """An engine that listens on the port."""

    supervisor: EngineSupervisor
    port: int


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    port = free_port()
    listen = Listen(f"tcp://127.0.0.1:{port}", ENGINE[1].decode(), GATEWAYS[0].decode(), 300.0)
    supervisor = EngineSupervisor(
        EngineConfig(model_path="fine", artifact_root=""),
        patience=Patience(silence=60.0, loading=60.0, backoff=0.05),
        command=(sys.executable, FAKE),
        listen=listen,
    )
    await supervisor.start()
    await supervisor.wait_ready()
    yield Far(supervisor, port)
    await supervisor.stop()


@asynccontextmanager
async def gateway(where: EngineAddress, on_cut: Callable[[], None] = lambda: None) -> AsyncIterator[EngineClient]:
    client = EngineClient()
    client.connect(where, on_cut)
    try:
        yield client
    finally:
        client.disconnect(OVER)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


def request(id: str, max_tokens: int = 3, prompt: int = 10) -> GenerateRequest:
    return GenerateRequest(id=id, prompt_token_ids=[1, prompt], params=SamplingParams(max_tokens=max_tokens))


async def answer(client: EngineClient, asked: GenerateRequest) -> list[TokenDelta]:
    return [delta async for delta in client.generate(asked)]


async def test_two_gateways_share_an_engine_and_neither_sees_or_ends_what_is_the_others(far: Far) -> None:
    async with gateway(address(far.port)) as one, gateway(address(far.port)) as two:
        await until(lambda: bool(one.ready and two.ready))
        assert one.epoch == two.epoch
        long = one.generate(request("long", 100_000))
        await anext(long)
        answers = await asyncio.gather(answer(one, request("a")), answer(two, request("b", prompt=20)), two.status())
        assert [[d.token_ids for d in deltas] for deltas in answers[:2]] == [[[11], [12], [13]], [[21], [22], [23]]]
        refused = await answer(two, request("long"))
        assert [d.failure.code for d in refused if d.failure] == ["invalid_request"]
        two.send(Shutdown())
        assert (await two.status()).stats.running == 1
        await anext(long)
        long.close()
        assert (await one.adapter("pin", "digest")).error is None
        await until(lambda: two.pinned == {"digest"})
        assert (await two.adapter("unpin", "digest")).error is None
        await until(lambda: one.pinned == set())
    assert far.supervisor.restarts == 0


async def test_what_a_gateway_had_asked_for_ends_with_it(far: Far) -> None:
    async with gateway(address(far.port)) as one:
        await until(lambda: one.ready is not None)
        stream = one.generate(request("long", 100_000))
        await anext(stream)
    async with gateway(address(far.port)) as two:
        await until(lambda: two.ready is not None)
        async with asyncio.timeout(60):
            while (await two.status()).stats.running:
                pass


async def test_pins_of_an_engine_that_died_come_back_whichever_gateway_had_made_them(far: Far) -> None:
    cuts: list[str] = []
    async with gateway(address(far.port)) as one, gateway(address(far.port), lambda: cuts.append("cut")) as two:
        await until(lambda: bool(one.ready and two.ready))
        await one.adapter("pin", "digest")
        await until(lambda: far.supervisor.client.pinned == two.pinned == {"digest"})
        one.disconnect(OVER)
        assert far.supervisor.pid is not None
        os.kill(far.supervisor.pid, signal.SIGKILL)
        await until(lambda: bool(cuts))
        two.disconnect(OVER)
        two.connect(address(far.port))
        await until(lambda: two.ready is not None)
        async with asyncio.timeout(60):
            while [(row.digest, row.pinned) for row in (await two.status()).adapters] != [("digest", True)]:
                pass


async def test_strangers_are_not_heard_and_an_engine_without_the_key_is_not_believed(far: Far) -> None:
    refused: list[str] = []
    async with (
        gateway(address(far.port, STRANGER), lambda: refused.append("by the engine")),
        gateway(address(far.port, engine=STRANGER[0])) as deceived,
        gateway(address(far.port)) as known,
    ):
        await until(lambda: known.ready is not None and bool(refused))
        assert deceived.ready is None
    plain = zmq.Context.instance().socket(zmq.DEALER)
    plain.linger = 0
    plain.connect(f"tcp://127.0.0.1:{far.port}")
    plain.send(b"\x82\xa4type\xa5hello\xa8protocol\x01")
    assert not plain.poll(500)
    plain.close()


async def test_a_cut_line_is_noticed_and_nothing_that_passed_it_could_be_read(far: Far) -> None:
    """It is noticed after the time that it is told to be, and by nothing else: who is told to wait longer does."""
    cuts: list[str] = []
    async with (
        cable_to(far.port) as cable,
        gateway(address(cable.port, timeout=2.0), lambda: cuts.append("soon")) as client,
        gateway(address(cable.port, timeout=300.0), lambda: cuts.append("late")) as patient,
    ):
        await until(lambda: patient.ready is not None)
        await until(lambda: client.ready is not None)
        stream = client.generate(request("secret-id", 100_000, prompt=TOKEN))
        await anext(stream)
        cable.cut()
        await until(lambda: bool(cuts))
        assert cuts == ["soon"]
        client.disconnect(OVER)
        while not stream.has_failed:  # behind what had come before the cut
            await asyncio.wait_for(anext(stream), 10)
        cable.heal()
        client.connect(address(cable.port))
        await until(lambda: client.ready is not None)
        assert [d.token_ids for d in await answer(client, request("after"))] == [[11], [12], [13]]
        assert len(cable.seen) > 1000
        # The prompt's last token, and two that came back.
        tokens = [msgspec.msgpack.encode(TOKEN + further) for further in range(3)]
        for readable in (b"hello", b"secret-id", b"generate", b"token_ids", b"heartbeat", *tokens):
            assert readable not in cable.seen


async def test_an_address_that_is_taken_is_the_operators_to_mend() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        supervisor = EngineSupervisor(
            EngineConfig(model_path="fine", artifact_root=""),
            command=(sys.executable, FAKE),
            listen=Listen(endpoint, ENGINE[1].decode(), GATEWAYS[0].decode(), 300.0),
        )
        await supervisor.start()
        with pytest.raises(EngineFailed, match=endpoint) as failed:
            await supervisor.wait_ready()
        assert failed.value.kind == "configuration"
        await supervisor.stop()
