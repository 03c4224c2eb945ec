"""A trace of requests on a simulated fleet: what is found in the caches, and how soon the first tokens come."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from multiflora_engine.process.client import EngineClient
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.messages import Fatal, Ready
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_engine.simulation.block_trace import hashes_of
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.fleet.scaling import HotBlocks, Scaler, Targets
from multiflora_platform.fleet_simulation.policies import POLICIES
from multiflora_platform.fleet_simulation.simulated_engine import Costs, EngineShape, SimulatedEngine, Workload
from multiflora_platform.fleet_simulation.simulated_time import SimulatedTime
from multiflora_platform.percentiles import percentile

_TEND_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """What is simulated. policy: one of POLICIES. replicas: of the fleet; with `least`, at most so many, and from
    `least` on as many as the load wants (`targets`). speed: times as fast as the trace's requests came."""

    replicas: int
    shape: EngineShape
    costs: Costs = field(default_factory=Costs)
    policy: str = "score"
    speed: float = 1.0
    least: int | None = None
    targets: Targets = field(default_factory=Targets)


@dataclass
class Outcome:
    """first_seconds: to the first token, of each request that was answered. prompt_tokens: of these, and cached_tokens
    those that were found. skipped: requests that were larger than a replica's cache. replica_seconds: for which
    replicas ran or started, in all. most_replicas: at the same time."""

    first_seconds: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    skipped: int = 0
    replica_seconds: float = 0.0
    most_replicas: int = 0

    @property
    def cached_share(self) -> float:
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def mean(self) -> float:
        return statistics.fmean(self.first_seconds) if self.first_seconds else 0.0

    def percentile(self, percent: int) -> float:
        return percentile(self.first_seconds, percent) or 0.0


def simulate(trace: Sequence[TracedRequest], plan: Plan) -> Outcome:
    """The same trace and plan always come to the same outcome."""
    return _Run(trace, plan).outcome()


class _SimulatedProcess:
    """A Supervisor of an engine that has no process."""

    restarts = 0
    pid: int | None = None
    failure: Fatal | None = None

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine

    @property
    def client(self) -> EngineClient:
        return self._engine

    @property
    def state(self) -> str:
        return "ready" if self._engine.ready else "stopped"

    async def start(self) -> None:
        self._engine.start()

    async def wait_ready(self) -> Ready:
        assert self._engine.ready is not None, "a start takes no time of the event loop's"
        return self._engine.ready

    async def stop(self) -> None:
        self._engine.stop()


class _Run:
    def __init__(self, trace: Sequence[TracedRequest], plan: Plan) -> None:
        self._plan = plan
        self._time = time = SimulatedTime()
        self._workloads: dict[str, Workload] = {}
        self._arrived: dict[str, float] = {}
        self._streams: dict[str, TokenStream] = {}
        self._outcome = Outcome()
        self._engines = [
            SimulatedEngine(plan.shape, plan.costs, time, self._workloads.__getitem__, self._note_delta)
            for _ in range(plan.replicas)
        ]
        self._replicas = [
            EngineReplica(str(number), _SimulatedProcess(engine)) for number, engine in enumerate(self._engines)
        ]
        self._router = POLICIES[plan.policy](time.clock)
        self._fleet = Fleet(self._replicas, self._router)
        self._fleet.look_up_by(self._hashes)
        # When each of those that run, or are starting, began to.
        self._since: dict[int, float] = {}
        self._left = len(trace)
        self._plan_arrivals(trace)

    def _plan_arrivals(self, trace: Sequence[TracedRequest]) -> None:
        ordered = sorted(trace, key=lambda request: request.at)
        for number, traced in enumerate(ordered):
            at = (traced.at - ordered[0].at) / self._plan.speed
            self._time.at(at, partial(self._arrive, str(number), traced))

    def outcome(self) -> Outcome:
        least = self._plan.least
        for number, engine in enumerate(self._engines):
            if least is None or number < least:
                self._note_running(number)
                engine.start()
            else:
                self._replicas[number].retired = True
        if least is not None:
            scaler = Scaler(least, self._plan.replicas, self._plan.targets)
            self._router.hot = HotBlocks(self._plan.targets.down_after)
            self._time.after(_TEND_SECONDS, partial(self._tend, scaler))
        self._time.run()
        for number in list(self._since):
            self._note_ended(number)
        return self._outcome

    # ---- requests

    def _arrive(self, id: str, traced: TracedRequest) -> None:
        size = self._plan.shape.block_size
        prompt_tokens = traced.prompt_tokens or traced.prompt_blocks * size + 1
        output_tokens = max(1, traced.output_tokens)
        if -(-(prompt_tokens + output_tokens) // size) > self._plan.shape.num_blocks:
            self._outcome.skipped += 1
            self._left -= 1
            return
        hashes = hashes_of(traced)
        owner = str(traced.owner)
        self._workloads[id] = Workload(
            hashes, traced.prompt_blocks, prompt_tokens, output_tokens, owner, traced.background
        )
        self._arrived[id] = self._time.now
        request = GenerateRequest(
            id=id,
            prompt_token_ids=[0] * prompt_tokens,
            params=SamplingParams(max_tokens=output_tokens),
            adapter_digest=f"adapter-{traced.adapter}" if traced.adapter else None,
            background=traced.background,
        )
        self._streams[id] = self._fleet.generate(request)

    def _note_delta(self, delta: TokenDelta) -> None:
        id = delta.request_id
        began = self._arrived.pop(id, None)
        if began is not None:
            self._outcome.first_seconds.append(self._time.now - began + self._plan.costs.front)
            self._outcome.cached_tokens += delta.cached_tokens
            self._outcome.prompt_tokens += self._workloads[id].prompt_tokens
        if delta.finish_reason is not None:
            del self._streams[id], self._workloads[id]
            self._left -= 1

    # ---- replicas that come and go

    def _tend(self, scaler: Scaler) -> None:
        """Each second, until all is answered."""
        if not self._left:
            return
        self._end_drained()
        running = [number for number in self._since if not self._replicas[number].retired]
        serving = [self._replicas[number] for number in running if self._engines[number].ready]
        if len(running) == len(self._since) == len(serving):
            self._scale(running, scaler.decide(self._router.load(serving), self._time.now))
        self._time.after(_TEND_SECONDS, partial(self._tend, scaler))

    def _scale(self, running: list[int], count: int) -> None:
        for number in [number for number in range(self._plan.replicas) if number not in running][
            : count - len(running)
        ]:
            self._note_running(number)
            self._time.after(self._plan.costs.start, partial(self._begin, number))
        for number in running[count:]:
            self._fleet.retire(self._replicas[number])

    def _begin(self, number: int) -> None:
        self._replicas[number].retired = False
        self._engines[number].start()

    def _end_drained(self) -> None:
        for number in [number for number in self._since if self._replicas[number].retired]:
            engine = self._engines[number]
            if engine.ready is not None and not engine.in_flight:
                engine.stop()
                self._note_ended(number)

    def _note_running(self, number: int) -> None:
        self._since[number] = self._time.now
        self._outcome.most_replicas = max(self._outcome.most_replicas, len(self._since))

    def _note_ended(self, number: int) -> None:
        self._outcome.replica_seconds += self._time.now - self._since.pop(number)

    def _hashes(self, request: GenerateRequest, block_size: int) -> Iterator[list[bytes]]:
        """As a Router wants them: all at once."""
        workload = self._workloads[request.id]
        return iter((workload.hashes[: workload.prompt_blocks], []))
