"""Engines of other hosts as a fleet, with processes without a model: they join, die, are cut off, drain and leave."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
from tests.engine.process.tcp_proxy import Cable, cable_to
from tests.engine.process.test_lines import free_port, until

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.process.line import watch_line
from multiflora_engine.process.supervisor import EngineSupervisor, Patience
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.lines import Listen
from multiflora_engine.protocol.messages import PROTOCOL
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.auth.secret import Secret
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.hosts.far_engine import FarEngine, FarReplica, address_of
from multiflora_platform.fleet.hosts.following import FollowedFleet
from multiflora_platform.fleet.hosts.line_keys import line_keys
from multiflora_platform.fleet.hosts.replica_table import Listing, forget_gone, leases, listed, tell, withdraw
from multiflora_platform.fleet.routing import Router
from multiflora_platform.settings import Settings
from multiflora_platform.storage.database import Database

FAKE = str(Path(__file__).parents[3] / "engine" / "process" / "fake_engine.py")
KEYS = line_keys(Secret(b"k" * 32).derive)
SILENCE = 2.0
NOTHING_BEGUN = 9006  # the fake engine is silent about such a prompt for a minute


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.prepared(f"sqlite+aiosqlite:///{tmp_path / 'fleet.db'}")
    yield database
    await database.close()


class Hosts:
    """Engines, listed as `multiflora engine` lists them, each reached by a cable."""

    def __init__(self, database: Database, stack: AsyncExitStack) -> None:
        self._database = database
        self._stack = stack
        self.supervisors: dict[str, EngineSupervisor] = {}
        self.cables: dict[str, Cable] = {}

    async def start(self, name: str) -> None:
        port = free_port()
        listen = Listen(f"tcp://127.0.0.1:{port}", KEYS.engines.secret, KEYS.gateways.public, SILENCE)
        supervisor = EngineSupervisor(
            EngineConfig(model_path="fine", artifact_root=""),
            patience=Patience(silence=60.0, loading=60.0, backoff=0.05),
            command=(sys.executable, FAKE),
            listen=listen,
        )
        cable = await self._stack.enter_async_context(cable_to(port))
        self._stack.push_async_callback(supervisor.stop)
        await supervisor.start()
        await supervisor.wait_ready()
        self.supervisors[name], self.cables[name] = supervisor, cable
        await tell(self._database, listing(name, f"tcp://127.0.0.1:{cable.port}"))

    async def leave(self, name: str) -> None:
        """As SIGTERM to `multiflora engine`."""
        await self.supervisors[name].drain(60)
        await self.supervisors[name].stop()
        await withdraw(self._database, name)

    def pid(self, name: str) -> int:
        pid = self.supervisors[name].pid
        assert pid is not None
        return pid


def listing(name: str, endpoint: str, public_key: str = KEYS.engines.public, protocol: int = PROTOCOL) -> Listing:
    return Listing(name, "group", f"host-of-{name}", endpoint, public_key, 0, protocol, "ready")


@pytest.fixture
async def hosts(database: Database) -> AsyncIterator[Hosts]:
    async with AsyncExitStack() as stack:
        yield Hosts(database, stack)


@asynccontextmanager
async def gateway(database: Database, base_digest: str = "") -> AsyncIterator[Fleet]:
    fleet = Fleet((), Router("round-robin"))

    def reach(listing: Listing) -> FarReplica:
        return FarReplica(listing, FarEngine(address_of(listing, KEYS.gateways, SILENCE), base_digest, lambda: None))

    followed = FollowedFleet(fleet, database, "group", KEYS.engines.public, reach)
    await followed.start()
    try:
        yield fleet
    finally:
        await followed.close()


def ready(fleet: Fleet, *names: str) -> Callable[[], bool]:
    return lambda: {one.id for one in fleet.replicas if one.ready is not None} == set(names)


def request(id: str, max_tokens: int = 3, first: int = 1) -> GenerateRequest:
    return GenerateRequest(id=id, prompt_token_ids=[first, 10], params=SamplingParams(max_tokens=max_tokens))


async def all_of(stream: TokenStream) -> list[TokenDelta]:
    return [delta async for delta in stream]


def failures(answers: list[list[TokenDelta]]) -> list[str]:
    return [delta.failure.code for deltas in answers for delta in deltas if delta.failure is not None]


def test_by_default_a_cut_is_noticed_a_second_before_three() -> None:
    """ZeroMQ asks for a sign of life and then waits for it: both together are the whole time."""
    with zmq.Context(1) as context, context.socket(zmq.DEALER) as line:
        watch_line(line, Settings.model_validate({}).line_timeout)
        assert line.heartbeat_ivl + line.heartbeat_timeout == line.heartbeat_ttl == 2000
        assert line.heartbeat_ivl > 0


async def test_engines_join_while_it_runs_and_leave_without_a_failed_request(database: Database, hosts: Hosts) -> None:
    async with gateway(database) as fleet:
        assert (fleet.state, fleet.ready) == ("starting", None)
        with pytest.raises(EngineUnavailable):
            fleet.generate(request("too early"))
        await hosts.start("a")
        await until(ready(fleet, "a"))
        assert [d.token_ids for d in await all_of(fleet.generate(request("first")))] == [[11], [12], [13]]
        await fleet.adapter("pin", "digest")
        await hosts.start("b")
        await until(ready(fleet, "a", "b"))
        assert [replica.host for replica in fleet.replicas] == ["host-of-a", "host-of-b"]
        assert fleet.replicas[0].epoch > 1e12, "it is the engine's own"
        async with asyncio.timeout(60):
            while not [row.pinned for row in (await fleet.replicas[1].status()).adapters]:
                pass
        running = [asyncio.ensure_future(all_of(fleet.generate(request(f"r{n}", 30)))) for n in range(8)]
        await asyncio.sleep(0)
        leaving = asyncio.ensure_future(hosts.leave("a"))
        while not leaving.done():
            running.append(asyncio.ensure_future(all_of(fleet.generate(request(f"r{len(running)}")))))
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*running)
        assert failures(answers) == []
        assert {deltas[-1].finish_reason for deltas in answers} == {"length"}
        await until(lambda: [one.id for one in fleet.replicas] == ["b"])


async def test_a_killed_engine_loses_what_it_had_begun_alone_at_every_gateway(database: Database, hosts: Hosts) -> None:
    await hosts.start("a")
    await hosts.start("b")
    async with gateway(database) as one, gateway(database) as two:
        await until(ready(one, "a", "b"))
        await until(ready(two, "a", "b"))
        begun = [fleet.generate(request(f"long-{n}-{fleet is two}", 100_000)) for fleet in (one, two) for n in (0, 1)]
        for stream in begun:
            await anext(stream)
        os.kill(hosts.pid("a"), signal.SIGKILL)
        short = [fleet.generate(request(f"short-{n}-{fleet is two}")) for fleet in (one, two) for n in range(6)]
        answers = await asyncio.gather(*map(all_of, short))
        assert failures(answers) == []
        assert [[d.token_ids[0] for d in deltas] for deltas in answers] == [[11, 12, 13]] * 12
        lost = [
            stream
            for fleet, streams in ((one, begun[:2]), (two, begun[2:]))
            for stream in streams
            if fleet.replica_of(stream.request.id) == "a"
        ]
        assert failures([await all_of(stream) for stream in lost]) == ["engine_dead"] * 2
        for stream in begun:
            stream.close()
        await until(ready(one, "a", "b"))
        await until(ready(two, "a", "b"))


async def test_a_cut_network_is_gone_round_and_heals_without_a_restart(database: Database, hosts: Hosts) -> None:
    await hosts.start("a")
    await hosts.start("b")
    async with gateway(database) as fleet:
        await until(ready(fleet, "a", "b"))
        await until(lambda: [one.id for one in fleet.replicas] == ["a", "b"])
        epoch, pid = fleet.replicas[0].epoch, hosts.pid("a")
        hosts.cables["a"].cut()
        # Sent into the cable of one of both: nothing has come of them when the cut is noticed.
        answers = await asyncio.gather(*(all_of(fleet.generate(request(f"r{n}"))) for n in range(4)))
        assert failures(answers) == []
        assert {d.token_ids[0] for deltas in answers for d in deltas} == {11, 12, 13}
        assert [one.state for one in fleet.replicas] == ["restarting", "ready"]
        hosts.cables["a"].heal()
        await until(ready(fleet, "a", "b"))
        assert (fleet.replicas[0].epoch, hosts.pid("a")) == (epoch, pid), "the same life: what it cached is there"


async def test_engines_of_another_secret_release_or_model_are_not_used(
    database: Database, hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    await tell(database, listing("secret", "tcp://127.0.0.1:9", public_key="x" * 40))
    await tell(database, listing("release", "tcp://127.0.0.1:9", protocol=PROTOCOL + 1))
    await hosts.start("model")
    with caplog.at_level(logging.ERROR):
        async with gateway(database, base_digest="another") as fleet:
            await until(lambda: [one.state for one in fleet.replicas] == ["failed"])
            with pytest.raises(EngineUnavailable):
                fleet.generate(request("r"))
    told = " ".join(record.message for record in caplog.records)
    assert all(word in told for word in ("another release", "another secret", "another base model"))


async def test_a_database_that_is_away_takes_no_engine_that_answers(
    database: Database, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hosts.start("a")
    async with gateway(database) as fleet:
        await until(ready(fleet, "a"))
        await withdraw(database, "a")
        for _ in range(3):
            await asyncio.sleep(0.5)
            assert len(await all_of(fleet.generate(request("r")))) == 3
        hosts.cables["a"].cut()
        await until(lambda: fleet.replicas == ())


async def test_the_table_lists_a_groups_engines_whose_leases_hold(
    tmp_path: Path, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.prepared(database_url or f"sqlite+aiosqlite:///{tmp_path / 'fleet.db'}")
    try:
        a, b = listing("a", "tcp://h:1"), listing("b", "tcp://h:2")
        for one in (b, a, msgspec.structs.replace(a, state="draining"), msgspec.structs.replace(b, id="c", group="x")):
            await tell(database, one)
        assert list(await listed(database, "group")) == [msgspec.structs.replace(a, state="draining"), b]
        assert [(lease.listing.id, lease.listing.group) for lease in await leases(database)] == [
            ("a", "group"),
            ("b", "group"),
            ("c", "x"),
        ]
        with monkeypatch.context() as patch:
            patch.setattr("multiflora_platform.fleet.hosts.replica_table.LEASE_SECONDS", -2.0)
            await tell(database, b)
        held = {lease.listing.id: lease.seconds > 0 for lease in await leases(database)}
        assert held == {"a": True, "b": False, "c": True}
        await forget_gone(database)
        assert len(await leases(database)) == 3
        with monkeypatch.context() as patch:
            patch.setattr("multiflora_platform.fleet.hosts.replica_table._KEPT_SECONDS", 1.0)
            await forget_gone(database)
        assert [lease.listing.id for lease in await leases(database)] == ["a", "c"]
        await withdraw(database, "a")
        assert list(await listed(database, "group")) == []
    finally:
        await database.close()
