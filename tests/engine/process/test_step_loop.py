"""The step loop in this process: what it survives, whom it answers, and when it rests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from multiflora_engine.process import step_loop
from multiflora_engine.process.lifetime import ProcessLifetime
from multiflora_engine.process.peers import left_gateways
from multiflora_engine.process.served import Served
from multiflora_engine.process.socket import EngineSocket, Peer
from multiflora_engine.process.step_loop import StepLoop
from multiflora_engine.profiling import profiler
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import (
    Abort,
    AdapterCommand,
    AdapterMoves,
    AdapterResult,
    CacheChanges,
    CacheReply,
    CacheRequest,
    Deltas,
    EndSequence,
    EngineLoad,
    EngineStats,
    FollowCache,
    FromEngine,
    Generate,
    Heartbeat,
    ProfileReply,
    ProfileRequest,
    Ready,
    ResidencyReport,
    Shutdown,
    ToEngine,
    Welcome,
    Withdraw,
    Withdrawn,
)
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.residency.missing_artifacts import MissingArtifacts
from multiflora_engine.scheduling.config import QueueFull

STARTER, GATEWAY, OTHER = (
    Peer(cast(Any, None), name.encode(), name == "starter", name) for name in ("starter", "one", "other")
)
From = tuple[Peer, ToEngine]


@dataclass
class ScriptedLine:
    """Delivers one message a round, then Shutdown; keeps what is sent and how long the loop rests.

    script: what is not From a gateway is from the starter, to whom `sent` was sent; sent_to: what went to others. gone:
    are found to be so when tokens are sent to them.
    """

    script: deque[ToEngine | From]
    sent: list[FromEngine] = field(default_factory=list)
    sent_to: dict[Peer, list[FromEngine]] = field(default_factory=lambda: {GATEWAY: [], OTHER: []})
    rests: list[int] = field(default_factory=list)
    is_next: bool = True
    gone: list[Peer] = field(default_factory=list)
    found: list[Peer] = field(default_factory=list)
    taken: list[Peer] = field(default_factory=list)

    @property
    def peers(self) -> list[Peer]:
        return [peer for peer in (STARTER, GATEWAY, OTHER) if peer not in self.found]

    def receive(self) -> From | None:
        self.is_next = not self.is_next
        return None if self.is_next else self.next()

    def next(self) -> From:
        message = self.script.popleft() if self.script else Shutdown()
        return message if isinstance(message, tuple) else (STARTER, message)

    def send(self, peer: Peer, message: FromEngine) -> None:
        if peer in self.gone and isinstance(message, Deltas):
            self.gone.remove(peer)
            self.found.append(peer)
        if peer not in self.found:
            self.sent_to.get(peer, self.sent).append(message)

    def send_all(self, message: FromEngine) -> None:
        for peer in self.peers:
            self.send(peer, message)

    def take_gone(self) -> list[Peer]:
        taken = [peer for peer in self.found if peer not in self.taken]
        self.taken += taken
        return taken

    def wait(self, milliseconds: int) -> None:
        self.rests.append(milliseconds)


@dataclass
class ScriptedChanges:
    """ScriptedEngine adds one in each step."""

    is_on: bool = False
    count: int = 0
    pending: list[CacheChange] = field(default_factory=list)

    def turn(self, on: bool) -> None:
        self.is_on = on

    def take(self) -> list[CacheChange]:
        taken, self.pending = self.pending, []
        self.count += len(taken)
        return taken


@dataclass
class ScriptedCache:
    """Answers each request in its third part; the second waits for a thread."""

    requests: list[CacheRequest] = field(default_factory=list)
    parts: int = 0
    is_waiting: bool = False
    changes: ScriptedChanges = field(default_factory=ScriptedChanges)
    held_by: list[str] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)

    @property
    def has_work(self) -> bool:
        return bool(self.requests)

    def abandon(self, holder: str) -> None:
        self.abandoned.append(holder)

    def submit(self, request: CacheRequest) -> None:
        self.requests.append(request)
        self.held_by.append(request.holder)

    def advance(self) -> list[CacheReply]:
        if not self.requests:
            return []
        self.parts += 1
        self.is_waiting = self.parts % 3 == 2
        return [] if self.parts % 3 else [CacheReply(self.requests.pop(0).call_id)]


@dataclass
class ScriptedEngine:
    """add_request raises what `problems` has for the id; give_back keeps what has begun."""

    problems: dict[str, Exception] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    begun: tuple[str, ...] = ()
    aborted: list[tuple[str, int | None]] = field(default_factory=list)
    is_stalled: bool = False
    steps: int = 0
    layers: int = 0
    idle_moments: int = 0
    between_layers: Callable[[], None] | None = None
    cache_admin: ScriptedCache = field(default_factory=ScriptedCache)

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    def add_request(self, request: GenerateRequest) -> None:
        if request.id in self.problems:
            raise self.problems[request.id]
        self.running.append(request.id)

    def abort(self, request_id: str, index: int | None = None) -> None:
        self.aborted.append((request_id, index))

    def give_back(self, request_id: str) -> bool:
        if request_id in self.begun or request_id not in self.running:
            return False
        self.running.remove(request_id)
        return True

    def step(self) -> list[TokenDelta]:
        self.steps += 1
        self.cache_admin.changes.pending.append(CacheChange(bytes([self.steps % 256])))
        for _ in range(self.layers):
            assert self.between_layers is not None
            self.between_layers()
        return [TokenDelta(request_id=name, token_ids=[self.steps]) for name in self.running]

    def stats(self) -> EngineStats:
        return EngineStats()

    def use_idle_moment(self) -> None:
        assert not self.running, "requests would wait"
        self.idle_moments += 1


class ScriptedResidency:
    """Adapters that never arrive but one, which is there, and one whose every mention is an error of ours. One moves in
    each turn."""

    turns = 0

    def acquire(self, digest: str) -> int | None:
        if digest == "cursed":
            raise KeyError(digest)
        return 0 if digest == "resident" else None

    def load(self, digest: str) -> None:
        if digest == "unspeakable":
            raise KeyError(digest)

    pin = unpin = unload = release = load

    def poll(self) -> None: ...

    def snapshot(self) -> list[ResidencyReport]:
        return [
            ResidencyReport(digest, place, pinned=False, rank=8, bytes=1, running=0)
            for digest, place in (("resident", "slot"), ("gone", "disk"))
        ]

    def take_moves(self) -> dict[str, str]:
        self.turns += 1
        return {f"moved-{self.turns}": "cpu"}


def run(
    *script: ToEngine | From,
    engine: ScriptedEngine | None = None,
    kind: type[ScriptedLine] = ScriptedLine,
    gone: Peer | None = None,
) -> ScriptedLine:
    for peer in (STARTER, GATEWAY, OTHER):
        peer.following = peer.changes_before = peer.requests = 0
        peer.told = None
    line = kind(deque(script), gone=[] if gone is None else [gone])
    between: list[Callable[[], None]] = []
    scripted = engine or ScriptedEngine()
    served = SimpleNamespace(
        engine=scripted,
        residency=ScriptedResidency(),
        artifacts=MissingArtifacts(),
        ready=Ready("cpu", "float32", 1, 16, 64, 1, 1, 8, 1, 1),
        probe=_probe,
        call_between_layers=between.append,
        check_ranks=lambda: None,
        use_idle_moment=scripted.use_idle_moment,
    )
    loop = StepLoop(
        cast(Served, served),
        cast(EngineSocket, line),
        cast(ProcessLifetime, SimpleNamespace(stop_requested=False, orphaned=False)),
    )
    if engine is not None:
        engine.between_layers = between[0]
    loop.run()
    return line


def _probe(slot: int) -> float:
    raise RuntimeError("out of memory")


def _request(name: str, n: int = 1) -> Generate:
    return Generate(GenerateRequest(id=name, prompt_token_ids=[1], params=SamplingParams(n=n, max_tokens=4)))


def _failures(line: ScriptedLine) -> list[tuple[str, int, str]]:
    deltas = [delta for message in line.sent if isinstance(message, Deltas) for delta in message.deltas]
    return [(d.request_id, d.index, d.failure.code) for d in deltas if d.failure is not None]


def test_what_is_put_off_is_done_when_no_request_runs() -> None:
    busy, idle = ScriptedEngine(running=["one"]), ScriptedEngine()
    for engine in (busy, idle):
        run(Abort(["none"]), engine=engine)
    assert busy.idle_moments == 0
    assert busy.steps > 0
    assert idle.idle_moments > 0
    assert idle.steps == 0


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (QueueFull("full"), "server_overloaded"),
        (ValueError("no"), "invalid_request"),
        (KeyError("what nobody thought of"), "internal_error"),
        (MemoryError(), "internal_error"),
    ],
)
def test_a_request_that_cannot_be_taken_in_fails_alone(
    monkeypatch: pytest.MonkeyPatch, problem: Exception, code: str
) -> None:
    # Writing the log may take longer than the loop receives, which would make another round.
    monkeypatch.setattr("multiflora_engine.process.step_loop._RECEIVING_SECONDS", 60.0)
    engine = ScriptedEngine({"bad": problem})
    line = run(_request("good"), _request("bad", n=2), Abort(["good"]), engine=engine)
    assert _failures(line) == [("bad", 0, code), ("bad", 1, code)]
    assert engine.running == ["good"]
    assert engine.steps == 4
    assert engine.aborted == [("good", None)]


class FullLine(ScriptedLine):
    """Delivers all that there is at once."""

    def receive(self) -> From:
        return self.next()


def test_the_refused_of_a_flood_are_told_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    microseconds = iter(range(100_000))
    monkeypatch.setattr("multiflora_engine.process.step_loop.time.monotonic", lambda: next(microseconds) * 1e-6)
    names = [f"bad-{number}" for number in range(50)]
    engine = ScriptedEngine({name: QueueFull("full") for name in names})
    line = run(*map(_request, names), engine=engine, kind=FullLine)
    assert len(_failures(line)) == 50
    assert sum(isinstance(message, Deltas) for message in line.sent) == 1


def test_a_flood_of_requests_leaves_steps_to_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = iter(range(100_000))
    monkeypatch.setattr("multiflora_engine.process.step_loop.time.monotonic", lambda: next(milliseconds) * 1e-3)
    engine = ScriptedEngine()
    run(*(_request(str(number)) for number in range(200)), engine=engine, kind=FullLine)
    assert 5 < engine.steps < 20


def test_one_sequence_can_be_ended() -> None:
    engine = ScriptedEngine()
    run(_request("r", n=3), EndSequence("r", 2), engine=engine)
    assert engine.aborted == [("r", 2)]


def test_a_command_that_goes_wrong_is_answered_and_ends_nothing() -> None:
    commands = [("probe", "resident"), ("load", "cursed"), ("pin", "unspeakable"), ("dance", "resident")]
    line = run(*(AdapterCommand(i, action, digest) for i, (action, digest) in enumerate(commands)), _request("r"))
    answers = {m.call_id: m.error for m in line.sent if isinstance(m, AdapterResult)}
    assert answers == {
        0: "The engine could not do it: RuntimeError.",
        1: "The engine could not do it: KeyError.",
        2: "The engine could not do it: KeyError.",
        3: "unknown action 'dance'",
    }
    assert any(isinstance(message, Deltas) for message in line.sent)


def test_streams_do_not_rest_while_a_command_waits() -> None:
    engine = ScriptedEngine()
    line = run(_request("r"), AdapterCommand(1, "pin", "distant"), *[Abort([])] * 5, engine=engine)
    assert engine.steps == 8
    assert line.rests == []


def test_a_report_of_the_cache_takes_a_part_of_each_step_and_is_sent_when_it_is_complete() -> None:
    engine = ScriptedEngine()
    line = run(_request("r"), CacheRequest(7, "report"), *[Abort([])] * 5, engine=engine)
    assert [type(message) for message in line.sent if not isinstance(message, Welcome | Heartbeat)][:5] == [
        *[Deltas] * 4,
        CacheReply,
    ], "a step for each part"
    assert line.rests == []


def test_what_the_cache_gained_is_told_to_followers_before_the_deltas_of_the_step() -> None:
    line = run(FollowCache(3), _request("r"), Abort([]))
    told = [message for message in line.sent if isinstance(message, CacheChanges | Deltas)]
    assert told[::2] == [CacheChanges(3, [CacheChange(bytes([step + 1]))]) for step in range(len(told) // 2)]
    assert len(told) >= 4
    assert all(isinstance(message, Deltas) for message in told[1::2])
    for script in ([_request("r")], [FollowCache(3), FollowCache(0), _request("r")]):
        assert not [message for message in run(*script).sent if isinstance(message, CacheChanges)]


def test_where_adapters_are_is_told_to_followers_first_all_and_then_each_move() -> None:
    line = run(_request("r"), FollowCache(3), Abort([]))
    told = [message for message in line.sent if isinstance(message, AdapterMoves | Deltas)]
    first = told.index(AdapterMoves({"resident": "slot"}, is_all=True))
    assert not [message for message in told[:first] if isinstance(message, AdapterMoves)]
    assert [type(message) for message in told[first + 1 : first + 3]] == [AdapterMoves, Deltas]
    assert all(message.places for message in told if isinstance(message, AdapterMoves))
    (last,) = [message for message in told if isinstance(message, AdapterMoves)][-1].places
    assert last.startswith("moved-")
    assert not [message for message in run(_request("r"), Abort([])).sent if isinstance(message, AdapterMoves)]


def test_the_loop_rests_while_the_cache_waits_for_its_thread_only() -> None:
    line = run(CacheRequest(7, "report"), *[Abort([])] * 5)
    assert line.rests[0] == 5
    assert min(line.rests[1:]) > 100


def test_what_waits_is_looked_at_every_few_milliseconds_and_nothing_until_the_next_heartbeat() -> None:
    waiting = run(AdapterCommand(1, "load", "distant"), *[Abort([])] * 3)
    assert set(waiting.rests) == {5}
    stalled = run(_request("r"), *[Abort([])] * 3, engine=ScriptedEngine(is_stalled=True))
    assert set(stalled.rests) == {5}
    idle = run(*[Abort([])] * 3)
    assert min(idle.rests) > 100
    assert sum(isinstance(message, Heartbeat) for message in idle.sent) == 1


def test_a_step_of_minutes_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr("multiflora_engine.process.step_loop.time.monotonic", lambda: float(next(seconds)))
    line = run(_request("r"), engine=ScriptedEngine(layers=40))
    first = next(i for i, message in enumerate(line.sent) if isinstance(message, Deltas))
    assert sum(isinstance(message, Heartbeat) for message in line.sent[:first]) >= 40


class PatientLine(ScriptedLine):
    """Its Shutdown comes when two profiles were answered."""

    def receive(self) -> From | None:
        is_answered = sum(isinstance(message, ProfileReply) for message in self.sent) == 2
        return super().receive() if self.script or is_answered else None


def test_a_profile_is_answered_when_it_is_recorded_and_steps_go_on_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine()

    def record(seconds: float) -> bytes:
        before, until = engine.steps, time.monotonic() + 30
        while engine.steps < before + 3 and time.monotonic() < until:
            time.sleep(0.001)
        return b"of %d steps" % min(3, engine.steps - before)

    monkeypatch.setitem(profiler._RECORDERS, "python", record)
    line = run(
        _request("r"),
        ProfileRequest(1, "python", 5.0),
        ProfileRequest(2, "torch", 5.0),
        engine=engine,
        kind=PatientLine,
    )
    refused, recorded = [message for message in line.sent if isinstance(message, ProfileReply)]
    assert (refused.call_id, refused.trace) == (2, b"")
    assert refused.error is not None
    assert "being recorded already" in refused.error
    assert (recorded.call_id, recorded.error, recorded.trace) == (1, None, b"of 3 steps")


def _of(line: ScriptedLine, peer: Peer, kind: type[Any]) -> list[Any]:
    return [message for message in line.sent_to[peer] if isinstance(message, kind)]


def _tokens(line: ScriptedLine, peer: Peer) -> set[str]:
    return {delta.request_id for message in _of(line, peer, Deltas) for delta in message.deltas}


def test_each_gateway_gets_its_own_tokens_and_can_end_none_of_anothers() -> None:
    engine = ScriptedEngine()
    script = [(GATEWAY, _request("a")), (OTHER, _request("b")), (OTHER, Abort(["a"])), (OTHER, EndSequence("a", 0))]
    line = run(*script, *[(GATEWAY, Abort([]))] * 2, engine=engine)
    assert (_tokens(line, GATEWAY), _tokens(line, OTHER)) == ({"a"}, {"b"})
    assert not any(isinstance(message, Deltas) for message in line.sent)
    assert engine.aborted == []
    assert run(*script, (GATEWAY, Abort(["a"])), engine=engine)
    assert engine.aborted == [("a", None)]


def test_an_id_that_another_gateways_request_has_is_refused_to_the_later_one_alone() -> None:
    line = run((GATEWAY, _request("same")), (OTHER, _request("same", n=2)), *[(GATEWAY, Abort([]))] * 2)
    refused = [(d.index, d.failure.code) for message in _of(line, OTHER, Deltas) for d in message.deltas]
    assert refused == [(0, "invalid_request"), (1, "invalid_request")]
    assert {d.failure for message in _of(line, GATEWAY, Deltas) for d in message.deltas} == {None}


def test_calls_of_the_same_number_are_answered_to_those_who_made_them() -> None:
    line = run(
        (GATEWAY, AdapterCommand(1, "load", "resident")),
        (OTHER, CacheRequest(1, "find")),
        (OTHER, AdapterCommand(2, "load", "cursed")),
        *[Abort([])] * 3,
    )
    answers = {peer: [one for one in line.sent_to[peer] if hasattr(one, "call_id")] for peer in (GATEWAY, OTHER)}
    assert [(type(one), one.call_id) for one in answers[GATEWAY]] == [(AdapterResult, 1)]
    assert [(type(one), one.call_id) for one in answers[OTHER]] == [(AdapterResult, 2), (CacheReply, 1)]


def test_what_a_gateway_asked_for_that_is_gone_is_computed_no_more() -> None:
    engine = ScriptedEngine()
    script = [(GATEWAY, FollowCache(4)), (GATEWAY, _request("left")), (OTHER, _request("kept")), Abort([]), Abort([])]
    line = run(*script, engine=engine, gone=GATEWAY)
    assert engine.aborted == [("left", None)]
    assert not engine.cache_admin.changes.is_on, "the only one that followed is gone"
    assert _tokens(line, OTHER) == {"kept"}


def test_each_gateway_follows_the_cache_from_when_it_asked_to() -> None:
    held = CacheRequest(1, "held")
    script = [(GATEWAY, FollowCache(7)), _request("r"), Abort([]), (OTHER, FollowCache(2)), Abort([]), (OTHER, held)]
    line = run(*script, *[Abort([])] * 4)
    told = {peer: [c for m in _of(line, peer, CacheChanges) for c in m.changes] for peer in (GATEWAY, OTHER)}
    assert {m.following for m in _of(line, GATEWAY, CacheChanges)} == {7}
    assert {m.following for m in _of(line, OTHER, CacheChanges)} == {2}
    assert 0 < len(told[OTHER]) < len(told[GATEWAY])
    assert told[GATEWAY][-len(told[OTHER]) :] == told[OTHER], "nothing is missed, and nothing told twice"
    assert _of(line, OTHER, AdapterMoves)[0] == AdapterMoves({"resident": "slot"}, is_all=True)


@dataclass
class CountingEngine(ScriptedEngine):
    """Each request is ten tokens of a prompt that waits."""

    def stats(self) -> EngineStats:
        return EngineStats(pending_prefill_tokens=10 * len(self.running), running=len(self.running))


def test_gateways_that_share_an_engine_are_told_its_load_and_which_of_their_requests_are_in_it() -> None:
    follow = [(GATEWAY, FollowCache(1)), (OTHER, FollowCache(1))]
    requests = [(GATEWAY, _request("a")), (GATEWAY, _request("b")), (OTHER, _request("c"))]
    line = run(*follow, *requests, *[Abort([])] * 2, engine=CountingEngine())
    told = {
        peer: [(m.acked, m.pending_prefill_tokens) for m in _of(line, peer, EngineLoad)] for peer in (GATEWAY, OTHER)
    }
    assert told == {GATEWAY: [(0, 0), (1, 10), (2, 20), (2, 30)], OTHER: [(0, 0), (0, 10), (0, 20), (1, 30)]}
    alone = run(follow[0], *requests, *[Abort([])] * 2, engine=CountingEngine())
    assert not _of(alone, GATEWAY, EngineLoad), "one that is alone knows it"


def test_an_engine_is_ended_by_its_starter_alone() -> None:
    engine = ScriptedEngine()
    run((GATEWAY, Shutdown()), _request("r"), engine=engine)
    assert engine.steps


def test_requests_that_have_not_begun_go_back_to_the_gateway_whose_they_are() -> None:
    asked = [(GATEWAY, _request("begun")), (GATEWAY, _request("waits")), (OTHER, _request("others"))]
    withdraw = Withdraw(["begun", "waits", "others", "unknown"])
    engine = ScriptedEngine(begun=("begun",))
    line = run(*asked, (GATEWAY, withdraw), (GATEWAY, withdraw), engine=engine)
    assert [message for message in line.sent_to[GATEWAY] if isinstance(message, Withdrawn)] == [Withdrawn(["waits"])]
    assert engine.running == ["begun", "others"]
    # Its id is free again, and nothing is owed for it.
    again = run(*asked, (GATEWAY, withdraw), (OTHER, _request("waits")), engine=ScriptedEngine(begun=("begun",)))
    assert not _failures(again)
    late = [message for message in again.sent_to[OTHER] if isinstance(message, Deltas)][-1]
    assert [delta.request_id for delta in late.deltas] == ["others", "waits"]


@pytest.mark.parametrize("is_another_line", [False, True])
def test_what_a_gateway_holds_is_let_go_when_it_is_gone_for_good(
    is_another_line: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while it has another line: the one that is gone was cut."""
    monkeypatch.setattr(step_loop, "_HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(left_gateways, "LEASE_SECONDS", 0.0)
    monkeypatch.setattr(OTHER, "gateway", GATEWAY.gateway if is_another_line else "other")
    engine = ScriptedEngine()
    hold = CacheRequest(1, "hold", "ab", holder="forged")
    run((GATEWAY, hold), (GATEWAY, _request("a")), *[Abort([])] * 4, engine=engine, gone=GATEWAY)
    assert engine.cache_admin.held_by == ["one"], "whose line it came by"
    assert engine.cache_admin.abandoned == ([] if is_another_line else ["one"])
