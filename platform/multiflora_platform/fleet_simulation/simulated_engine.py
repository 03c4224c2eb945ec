"""One engine in simulated time: the engine's own block pool, its budget of tokens, and steps that take what they cost.

What it leaves out: preemption, priorities and shares, speculation. A sequence gets all its blocks when it starts.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.worth import COLD
from multiflora_engine.process.client import EngineClient
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import (
    AdapterMoves,
    CacheChanges,
    Deltas,
    EngineStats,
    FollowCache,
    Generate,
    Heartbeat,
    Ready,
    ToEngine,
    Welcome,
    Withdraw,
    Withdrawn,
)
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_platform.fleet_simulation.simulated_time import SimulatedTime
from multiflora_platform.fleet_simulation.slots import Slots

_HEARTBEAT_SECONDS = 1.0
_STOPPED = EngineFailure("engine_dead", "It was stopped.")


@dataclass(frozen=True)
class EngineShape:
    """The sizes of an engine, as `serve` has them."""

    num_blocks: int
    block_size: int = 16
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    lora_slots: int = 8


@dataclass(frozen=True)
class Costs:
    """Seconds: of a step, of each prompt token in it, of each answer that it goes on with; of a request's way to the
    engine and its first token's way back; of an adapter's way to a slot, from host memory and from disk; of an
    engine's start."""

    step: float = 2e-3
    prompt: float = 0.2e-3
    answer: float = 0.5e-3
    front: float = 0.0
    adapter_from_host: float = 0.01
    adapter_from_disk: float = 0.05
    start: float = 30.0


@dataclass(frozen=True)
class Workload:
    """What a request asks of an engine. hashes: of the blocks that it uses, of which the first prompt_blocks may be
    found. output_tokens: of its answer, at least one."""

    hashes: list[bytes]
    prompt_blocks: int
    prompt_tokens: int
    output_tokens: int
    owner: str = ""
    background: bool = False


@dataclass(eq=False)
class _Sequence:
    """left: tokens of the prompt that are to be computed; chunk: of these, in the present step. table: its blocks, of
    which so many are published. cached: tokens that it found."""

    request: GenerateRequest
    workload: Workload
    table: array[int]
    published: int
    uses: int
    left: int
    cached: int
    answered: int = 0
    chunk: int = 0


class SimulatedEngine(EngineClient):
    """The gateway's end of a line behind which time is simulated. workload_of: what each request asks, by its id.
    on_delta: told of each, once its stream has it."""

    def __init__(
        self,
        shape: EngineShape,
        costs: Costs,
        time: SimulatedTime,
        workload_of: Callable[[str], Workload],
        on_delta: Callable[[TokenDelta], None],
    ) -> None:
        super().__init__()
        self._shape = shape
        self._costs = costs
        self._time = time
        self._workload_of = workload_of
        self._on_delta = on_delta
        self._following = 0
        self._starts = 0
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._pool = BlockPool(self._shape.num_blocks, on_evict=self._note_evicted)
        self._slots = Slots(self._shape.lora_slots, self._load_adapter, self._note_moved)
        self._waiting: deque[GenerateRequest] = deque()
        self._running: list[_Sequence] = []
        # Hashes that a running sequence computes: another one that wants them waits for them.
        self._computing: Counter[bytes] = Counter()
        self._changes: list[CacheChange] = []
        self._moves: dict[str, str] = {}
        self._is_stepping = False
        self._next_heartbeat = 0.0
        self._steps = self._prompt_tokens = self._cache_hits = self._generation_tokens = 0
        self._step_seconds = 0.0

    # ---- its life

    def start(self) -> None:
        """It serves from now on."""
        shape = self._shape
        self._begin_anew()
        ready = Ready(
            device="simulated",
            dtype="simulated",
            num_blocks=shape.num_blocks,
            block_size=shape.block_size,
            max_model_len=shape.num_blocks * shape.block_size,
            max_num_seqs=shape.max_num_seqs,
            lora_slots=shape.lora_slots,
            lora_rows=0,
            kv_bytes=0,
            weight_bytes=0,
        )
        self._starts += 1
        self._dispatch(Welcome(self._starts, ready, []))

    def stop(self) -> None:
        """It has answered all that it had."""
        assert not self.in_flight, "it is drained first"
        self.disconnect(_STOPPED)

    def send(self, message: ToEngine) -> None:
        match message:
            case Generate(request):
                self._waiting.append(request)
                self._wake()
            case Withdraw(request_ids):
                # Not at once: the fleet is asking others, too.
                self._time.after(0.0, partial(self._give_back, request_ids))
            case FollowCache(following):
                self._following = following

    def _give_back(self, request_ids: list[str]) -> None:
        given = [request.id for request in self._waiting if request.id in request_ids]
        self._waiting = deque(request for request in self._waiting if request.id not in given)
        self._dispatch(Withdrawn(given))

    # ---- its steps

    def _wake(self) -> None:
        if not self._is_stepping:
            self._is_stepping = True
            self._time.after(0.0, self._begin_step)

    def _begin_step(self) -> None:
        self._admit()
        answering = sum(not one.left for one in self._running)
        budget = max(0, self._shape.max_num_batched_tokens - answering)
        computed = 0
        for one in self._running:
            one.chunk = min(one.left, budget - computed)
            computed += one.chunk
        if not answering and not computed:
            # What waits, waits for an adapter; its arrival wakes the engine.
            self._is_stepping = False
            self._tell()
            return
        seconds = self._costs.step + computed * self._costs.prompt + answering * self._costs.answer
        self._steps += 1
        self._step_seconds += seconds
        self._time.after(seconds, self._end_step)

    def _end_step(self) -> None:
        deltas = [delta for one in self._running if (delta := self._advance(one)) is not None]
        for one in self._running:
            if one.answered == one.workload.output_tokens:
                self._end(one)
        self._running = [one for one in self._running if one.answered < one.workload.output_tokens]
        self._tell()
        self._dispatch(Deltas(deltas))
        for delta in deltas:
            self._on_delta(delta)
        self._begin_step()

    def _advance(self, one: _Sequence) -> TokenDelta | None:
        """What the step has added to it."""
        if one.left:
            one.left -= one.chunk
            self._publish(
                one, min((one.workload.prompt_tokens - one.left) // self._shape.block_size, one.workload.prompt_blocks)
            )
            if one.left:
                return None
            self._prompt_tokens += one.workload.prompt_tokens
            self._cache_hits += one.cached
        one.answered += 1
        self._generation_tokens += 1
        return TokenDelta(
            request_id=one.request.id,
            token_ids=[0],
            cached_tokens=one.cached if one.answered == 1 else 0,
            finish_reason="length" if one.answered == one.workload.output_tokens else None,
        )

    def _end(self, one: _Sequence) -> None:
        self._publish(one, len(one.workload.hashes))
        self._pool.release(one.table)
        if one.request.adapter_digest is not None:
            self._slots.give_back(one.request.adapter_digest)

    def _publish(self, one: _Sequence, blocks: int) -> None:
        """So many of its blocks have been computed."""
        if blocks <= one.published:
            return
        new = slice(one.published, blocks)
        hashes = one.workload.hashes[new]
        places = self._pool.publish_all(one.table[new], hashes, one.workload.owner, one.uses)
        if places:
            self._changes.append(CacheChange(b"".join(hashes[place] for place in places)))
        self._computing.subtract(hash for hash in hashes if self._computing[hash])
        one.published = blocks

    # ---- what starts

    def _admit(self) -> None:
        """In order of arrival; what waits for something of its own lets others pass, what waits for blocks does not."""
        deferred = []
        while self._waiting and len(self._running) < self._shape.max_num_seqs:
            request = self._waiting.popleft()
            digest = request.adapter_digest
            workload = self._workload_of(request.id)
            hits = array("i", self._pool.leading(workload.hashes[: workload.prompt_blocks]))
            is_behind_twin = len(hits) < workload.prompt_blocks and self._computing[workload.hashes[len(hits)]] > 0
            if is_behind_twin or (digest is not None and not self._slots.take(digest)):
                deferred.append(request)
            elif not self._start(request, workload, hits):
                if digest is not None:
                    self._slots.give_back(digest)
                self._waiting.appendleft(request)
                break
        self._waiting.extendleft(reversed(deferred))

    def _start(self, request: GenerateRequest, workload: Workload, hits: array[int]) -> bool:
        """False: there are not enough blocks."""
        size = self._shape.block_size
        needed = max(len(workload.hashes), -(-(workload.prompt_tokens + workload.output_tokens) // size)) - len(hits)
        if needed > self._pool.num_free - self._pool.num_unreferenced(hits):
            return False
        missed = workload.hashes[len(hits) :]
        self._pool.share(hits, workload.owner)
        table = array("i", [*hits, *self._pool.allocate(needed, workload.owner)])
        uses = COLD if workload.background else self._pool.begin(hits, missed)
        cached = len(hits) * size
        self._computing.update(workload.hashes[len(hits) : workload.prompt_blocks])
        left = workload.prompt_tokens - cached
        self._running.append(_Sequence(request, workload, table, len(hits), uses, left, cached))
        return True

    # ---- adapters

    def _load_adapter(self, digest: str, place: str) -> None:
        costs = self._costs
        seconds = costs.adapter_from_host if place == "cpu" else costs.adapter_from_disk
        slots = self._slots

        def arrive() -> None:
            slots.loaded(digest)
            self._wake()

        self._time.after(seconds, arrive)

    def _note_moved(self, digest: str, place: str) -> None:
        self._moves[digest] = place

    # ---- what it tells

    def _note_evicted(self, block_id: int, hash: bytes) -> None:
        self._changes.append(CacheChange(hash, is_removal=True))

    def _tell(self) -> None:
        """Before a step's deltas, as the engine does."""
        if self._changes and self._following:
            self._dispatch(CacheChanges(self._following, self._changes))
        if self._moves and self._following:
            self._dispatch(AdapterMoves(self._moves))
        self._changes, self._moves = [], {}
        if self._time.now >= self._next_heartbeat or not self._running:
            self._next_heartbeat = self._time.now + _HEARTBEAT_SECONDS
            self._dispatch(Heartbeat(self._statistics()))

    def _statistics(self) -> EngineStats:
        waiting = sum(self._workload_of(request.id).prompt_tokens for request in self._waiting)
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            num_blocks=self._shape.num_blocks,
            free_blocks=self._pool.num_free,
            cached_blocks=self._pool.num_published,
            pending_prefill_tokens=waiting + sum(one.left for one in self._running),
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            cache_hits=self._cache_hits,
            step_seconds=self._step_seconds,
        )
