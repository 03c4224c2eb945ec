"""The whole scheduling side against a simulated device whose KV slots remember exactly what was written into them.

The simulated model's next token is a function of adapter, index and the whole prefix. Before it computes, the device
checks through the block table that every context slot holds the KV of just this prefix under just this adapter and
salt; so stale sharing, premature publishing, lost writes and wrong recomputation all fail at the step that does them.
"""

from __future__ import annotations

import logging
import random
import zlib
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.engine.simulated_tiers import SimulatedTiers

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.core.adapter_source import AdapterState, AdapterUnavailable
from multiflora_engine.core.sequence import Sequence, SequenceStatus
from multiflora_engine.core.step import (
    DeviceLost,
    SampledToken,
    Scheduled,
    ScheduledBatch,
    StepOutput,
)
from multiflora_engine.engine import Engine
from multiflora_engine.execution.runner import verified
from multiflora_engine.protocol.messages import CacheReply, CacheRequest
from multiflora_engine.protocol.requests import (
    EngineFailure,
    GenerateRequest,
    PositionLogprobs,
    TokenDelta,
    TokenLogprob,
)
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.scheduler import Scheduler

VOCABULARY = 11
EOS = 0


def fold(prefix: int, token_id: int) -> int:
    return zlib.crc32(bytes([token_id]), prefix)


def root(adapter: str | None, salt: str) -> int:
    return zlib.crc32(repr((adapter, salt)).encode())


def next_token(adapter: str | None, token_ids: list[int], index: int) -> int:
    prefix = root(adapter, "")
    for token_id in token_ids:
        prefix = fold(prefix, token_id)
    return fold(prefix, index) % VOCABULARY


def alone(request: GenerateRequest, index: int, max_model_len: int) -> list[int]:
    """The output of one candidate on a machine of its own."""
    params = request.params
    output: list[int] = []
    while len(output) < (params.max_tokens or 0) and len(request.prompt_token_ids) + len(output) < max_model_len:
        output.append(next_token(request.adapter_digest, request.prompt_token_ids + output, index))
        if output[-1] == EOS and not params.ignore_eos and len(output) >= params.min_tokens:
            break
    return output


def prompt_logprob(adapter: str | None, token_ids: list[int]) -> PositionLogprobs:
    """A made-up log-probability of the last token, given those before it."""
    return PositionLogprobs(TokenLogprob(token_ids[-1], -float(next_token(adapter, token_ids, 0)), 1), [])


class FakeAdapters:
    """Slots, host memory and loading as AdapterResidency has them; loading takes `load_polls` polls."""

    def __init__(self, num_slots: int, load_polls: int = 2, broken: frozenset[str] = frozenset()) -> None:
        self.slots: list[str | None] = [None] * num_slots
        self.users: Counter[str] = Counter()
        self.pinned: set[str] = set()
        self.loads = self.evictions = 0
        self._load_polls = load_polls
        self._broken = broken
        self._loading: dict[str, int] = {}
        self._host: set[str] = set()
        self._last_use: dict[str, int] = {}
        self._clock = 0

    def memory(self) -> tuple[int, int]:
        return 100 * sum(digest is not None for digest in self.slots), 100 * len(self._host)

    def stage_memory(self) -> list[int]:
        return []

    def state(self, digest: str) -> AdapterState:
        if digest in self.slots:
            return "slot"
        return "cpu" if digest in self._host else "loading" if digest in self._loading else "disk"

    def want(self, digest: str) -> None:
        if self.state(digest) == "disk":
            self._loading[digest] = self._load_polls

    def poll(self) -> None:
        for digest in list(self._loading):
            self._loading[digest] -= 1
            if self._loading[digest] <= 0:
                del self._loading[digest]
                self._host.add(digest)
                self.loads += 1

    def acquire(self, digest: str) -> int | None:
        self._clock += 1
        self.want(digest)
        if digest in self._broken and digest in self._host:
            self._host.discard(digest)
            raise AdapterUnavailable(f"{digest} is broken")
        if digest not in self.slots and not (digest in self._host and self._make_room(digest)):
            return None
        self.users[digest] += 1
        return self.slots.index(digest)

    def kv_reach(self, digest: str) -> KvReach:
        return KvReach(digest)

    def release(self, digest: str) -> None:
        self._clock += 1
        self._last_use[digest] = self._clock
        assert self.users[digest] > 0, "released more often than acquired"
        self.users[digest] -= 1

    def is_pinned(self, digest: str) -> bool:
        return digest in self.pinned

    def pending_placements(self) -> list[str]:
        return []

    def _make_room(self, digest: str) -> bool:
        if None not in self.slots:
            idle = [d for d in self.slots if d and not self.users[d] and d not in self.pinned]
            if not idle:
                return False
            self.slots[self.slots.index(min(idle, key=lambda d: self._last_use[d]))] = None
            self.evictions += 1
        self.slots[self.slots.index(None)] = digest
        return True


class FakeStep:
    """A step whose outputs, or failure, wait on the device, once it has been told what it needs for them."""

    def __init__(
        self, device: FakeDevice, outputs: Callable[[], list[StepOutput]], failure: Exception | None = None
    ) -> None:
        self._device = device
        self._outputs = outputs
        self._failure = failure
        self._result: list[StepOutput] | Exception | None = None
        if device.stages > 1:
            device.in_flight.append(self)

    def choose(self) -> None:
        """Of several stages, the last has to be done first."""
        if self._result is None and self._device.stages == 1:
            self._choose()

    def drop(self) -> None:
        """What several stages compute comes back in order, and all of it."""
        assert self._device.stages == 1 or self._device.in_flight.popleft() is self

    def collect(self) -> list[StepOutput]:
        self.drop()
        if self._device.stages > 1:
            self._choose()
        if isinstance(self._result, Exception):
            raise self._result
        assert self._result is not None, "its tokens were chosen"
        return self._result

    def _choose(self) -> None:
        outputs = self._outputs()
        self._result = self._failure or outputs


class FakeDevice:
    """A ModelRunner that checks all it is given. `during` runs after the writes, as late as an abort can come.

    A presence penalty stands for all that needs the output so far on the host before a token is chosen.

    poisonous: requests whose presence makes a step fail, after half of the KV was written, or (fails_late) when it is
    collected. runs_ahead: the device remembers the tokens that it samples, and goes on with those the host lacks.
    stages: that each have a batch to compute; where there are several, it does not run ahead.
    """

    def __init__(self, num_blocks: int, block_size: int, adapters: FakeAdapters) -> None:
        self.runs_ahead = self.fails_late = False
        self.stages = 1
        self.in_flight: deque[FakeStep] = deque()
        self.most_in_flight = 0
        self.sampled: WeakKeyDictionary[Sequence, tuple[int, int]] = WeakKeyDictionary()
        self.steps_ahead = 0
        self.block_size = block_size
        self.adapters = adapters
        self.kv: list[tuple[int, int] | None] = [None] * (num_blocks * block_size)
        self.poisonous: set[str] = set()
        self.during: Callable[[], None] | None = None
        self.computed_tokens = 0
        self.largest_batch = 0
        self.violation: AssertionError | None = None

    @property
    def depth(self) -> int:
        return self.stages if self.stages > 1 else 1 + self.runs_ahead

    def launch(self, batch: ScheduledBatch) -> FakeStep:
        """Remembers a violation, because the engine answers any exception of a runner by failing the requests."""
        try:
            assert len(self.in_flight) < self.stages
            self._execute(batch)
            late = self.fails_late and any(entry.sequence.request_id in self.poisonous for entry in batch.entries)
            failure = RuntimeError("secret path /srv/models") if late else None
            step = FakeStep(self, partial(self._outputs, batch), failure)
            self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
            if not any(map(self._lacks, batch.entries)):
                step.choose()
            if self.during:
                self.during()
            return step
        except AssertionError as violation:
            self.violation = violation
            raise

    def _lacks(self, entry: Scheduled) -> bool:
        return bool(entry.sequence.params.presence_penalty) and entry.start == entry.sequence.num_tokens

    def _outputs(self, batch: ScheduledBatch) -> list[StepOutput]:
        live = [entry for entry in batch.entries if entry.is_live]
        if any(map(self._lacks, live)):
            self.violation = AssertionError("tokens are chosen before the host knows those before")
        ended = StepOutput([SampledToken(0)])
        return [self._output(entry) if entry.is_live else ended for entry in batch.entries]

    def _execute(self, batch: ScheduledBatch) -> None:
        assert len({id(entry.sequence) for entry in batch.entries}) == len(batch.entries)
        self.computed_tokens += batch.num_tokens
        self.largest_batch = max(self.largest_batch, batch.num_tokens)
        contexts = [self._context(entry) for entry in batch.entries]
        for entry, context in zip(batch.entries, contexts, strict=True):
            self._verify(entry.sequence, context, entry.start)
        for entry, context in zip(batch.entries, contexts, strict=True):
            if entry.sequence.request_id in self.poisonous and not self.fails_late:
                raise RuntimeError("secret path /srv/models")
            for position in range(entry.start, entry.start + entry.num_tokens):
                self.kv[self._slot(entry.sequence, position)] = context[position]
        for entry, context in zip(batch.entries, contexts, strict=True):
            self._verify(entry.sequence, context, len(context))

    def _slot(self, sequence: Sequence, position: int) -> int:
        return sequence.block_table[position // self.block_size] * self.block_size + position % self.block_size

    def _context(self, entry: Scheduled) -> list[tuple[int, int]]:
        """What the KV of positions [0, start + num_tokens) has to be: (position, hash of all that it depends on)."""
        sequence, kv = entry.sequence, []
        assert sequence.status is SequenceStatus.RUNNING
        assert entry.start + entry.num_tokens == sequence.num_scheduled_tokens
        assert self.depth > 1 or entry.start == sequence.num_computed_tokens
        if sequence.adapter_digest is None:
            assert sequence.adapter_slot is None
        else:
            assert self.adapters.slots[sequence.adapter_slot or 0] == sequence.adapter_digest
        prefix = root(sequence.adapter_digest, sequence.cache_salt)
        for position, token_id in enumerate(self._token_ids(entry)):
            prefix = fold(prefix, token_id)
            kv.append((position, prefix))
        return kv

    def _token_ids(self, entry: Scheduled) -> list[int]:
        """Up to the entry's last; one that the host does not know is what the device itself sampled there."""
        token_ids = [*entry.sequence.token_ids[: entry.start + entry.num_tokens], *entry.drafts]
        if entry.start == entry.sequence.num_tokens:
            assert self.runs_ahead
            self.steps_ahead += 1
            position, token_id = self.sampled[entry.sequence]
            assert position == entry.start
            token_ids.append(token_id)
        return token_ids

    def _verify(self, sequence: Sequence, context: list[tuple[int, int]], stop: int) -> None:
        assert [self.kv[self._slot(sequence, position)] for position in range(stop)] == context[:stop]

    def _output(self, entry: Scheduled) -> StepOutput:
        sequence, end = entry.sequence, entry.num_known
        token_ids = self._token_ids(entry)[:end]
        assert entry.samples == (end == max(len(token_ids), sequence.num_tokens))
        assert entry.num_output_tokens == end - sequence.num_prompt_tokens
        logprobs = None
        if sequence.needs_prompt_logprobs:
            last = min(end, sequence.num_prompt_tokens - 1)
            logprobs = [
                prompt_logprob(sequence.adapter_digest, sequence.token_ids[: position + 1])
                for position in range(entry.start + 1, last + 1)
            ]
        if not entry.samples:
            return StepOutput([], logprobs)
        behind = [[*token_ids, *entry.drafts[:count]] for count in range(entry.num_rows)]
        tokens = [next_token(sequence.adapter_digest, text, sequence.index) for text in behind]
        self.sampled[sequence] = (end, tokens[0])
        return StepOutput(verified([SampledToken(token_id) for token_id in tokens], entry.drafts), logprobs)


class FakeDrafts:
    """A DraftSource that knows what comes next, and says so up to some point that depends on the text."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.is_on = False
        self.drafted = self.accepted = 0

    def wants(self, speculation: bool | None) -> bool:
        return speculation is not False

    def draft(self, sequence: Sequence, limit: int, num_running: int) -> list[int]:
        chance = random.Random(repr(sequence.token_ids))
        if not self.is_on or self._device.runs_ahead or chance.random() < 0.25:
            return []
        text = list(sequence.token_ids)
        for _ in range(min(limit, chance.randrange(1, 7))):
            text.append(next_token(sequence.adapter_digest, text, sequence.index))
        drafts = text[sequence.num_tokens :]
        wrong = chance.randrange(2 * len(drafts))
        return [(token + (place == wrong)) % VOCABULARY for place, token in enumerate(drafts)]

    def is_predicted(self, sequence: Sequence) -> bool:
        return False

    def observe(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        assert 0 < num_sequences <= num_rows

    def learn(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        assert 0 <= num_accepted <= num_drafted
        self.drafted += num_drafted
        self.accepted += num_accepted


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """One engine on a simulated device, and all deltas by (request id, index)."""

    def __init__(
        self,
        *,
        num_blocks: int = 16,
        block_size: int = 4,
        num_slots: int = 2,
        broken: frozenset[str] = frozenset(),
        load_polls: int = 2,
        runs_ahead: bool = False,
        stages: int = 1,
        drafts: bool = False,
        tiers: bool = False,
        **config: Any,
    ) -> None:
        sizes = {"max_model_len": 40, "max_num_seqs": 4, "max_num_batched_tokens": 16, **config}
        self.config = SchedulerConfig(
            num_blocks=num_blocks,
            block_size=block_size,
            eos_token_ids=frozenset({EOS}),
            vocab_size=VOCABULARY,
            num_batches=stages,
            **sizes,
        )
        self.adapters = FakeAdapters(num_slots, load_polls, broken)
        self.device = FakeDevice(num_blocks, block_size, self.adapters)
        self.device.runs_ahead = runs_ahead
        self.device.stages = stages
        self.clock = Clock()
        self.drafts = FakeDrafts(self.device)
        self.drafts.is_on = drafts
        self.tiers = SimulatedTiers(self.device.kv, block_size)
        self.tiers.is_on = tiers
        self.scheduler = Scheduler(
            self.config,
            self.adapters,
            "base",
            self.clock,
            runs_ahead,
            drafts=self.drafts,
            tiers=self.tiers,
        )
        self.engine = Engine(self.device, self.scheduler, self.adapters)
        self.requests: dict[str, GenerateRequest] = {}
        self.deltas: dict[tuple[str, int], list[TokenDelta]] = {}
        self.num_steps = 0

    def add(
        self,
        prompt: list[int],
        *,
        adapter: str | None = None,
        salt: str = "",
        priority: int = 0,
        deadline: float | None = None,
        share: float = 1.0,
        **params: Any,
    ) -> str:
        request = GenerateRequest(
            id=f"r{len(self.requests)}",
            prompt_token_ids=prompt,
            params=SamplingParams(**{"max_tokens": 8, **params}),
            adapter_digest=adapter,
            cache_salt=salt,
            cache_share=share,
            priority=priority,
            deadline=deadline,
        )
        self.engine.add_request(request)
        self.requests[request.id] = request
        return request.id

    def step(self) -> list[TokenDelta]:
        self.num_steps += 1
        self.tiers.work()
        deltas = self.engine.step()
        if self.device.violation:
            raise self.device.violation
        for salt, share in {(r.cache_salt, r.cache_share) for r in self.requests.values()}:
            number = self.scheduler.pool._owner_numbers.number(salt)
            held = sum(owner == number for owner in self.scheduler.pool._owners) if number else 0
            assert share == 1 or held <= self.config.share(share), "an owner holds no more than its share"
            assert not salt or held == self.scheduler.pool._held(salt)
        for delta in deltas:
            said = self.deltas.setdefault((delta.request_id, delta.index), [])
            assert not said or said[-1].finish_reason is None, "nothing follows the last delta"
            said.append(delta)
        return deltas

    def run(self, max_steps: int = 2000) -> None:
        for _ in range(max_steps):
            if not self.engine.has_work:
                return
            self.step()
        raise AssertionError("requests are left over: somebody starves")

    def output(self, request_id: str, index: int = 0) -> list[int]:
        return [token_id for delta in self.deltas.get((request_id, index), []) for token_id in delta.token_ids]

    def last(self, request_id: str, index: int = 0) -> TokenDelta:
        return self.deltas[request_id, index][-1]

    def failures(self, request_id: str) -> list[EngineFailure]:
        """One for each sequence that failed."""
        said = [delta for (id, _), deltas in self.deltas.items() if id == request_id for delta in deltas]
        return [delta.failure for delta in said if delta.failure is not None]

    def alone(self, request_id: str, index: int = 0) -> list[int]:
        return alone(self.requests[request_id], index, self.config.max_model_len)

    def check_idle(self) -> None:
        stats = self.engine.stats()
        assert stats.free_blocks == stats.num_blocks
        assert (stats.running, stats.waiting) == (0, 0)
        assert not +self.adapters.users


def test_a_mixed_batch_equals_each_alone() -> None:
    machine = Machine(num_blocks=64)
    ids = [
        machine.add([1, 2, 3] * count, adapter=adapter, n=n)
        for count, adapter, n in ((1, None, 1), (5, "a", 2), (9, "b", 1), (5, None, 3), (5, "b", 1))
    ]
    machine.run()
    for request_id in ids:
        for index in range(machine.requests[request_id].params.num_sequences):
            assert machine.output(request_id, index) == machine.alone(request_id, index)
    machine.check_idle()


def test_preemption_recomputes_the_same_output() -> None:
    machine = Machine(num_blocks=10, max_model_len=40)
    ids = [machine.add([tag] * 6, max_tokens=30, ignore_eos=True) for tag in (1, 2, 3)]
    machine.run()
    assert machine.engine.stats().preemptions > 0
    for request_id in ids:
        assert machine.output(request_id) == machine.alone(request_id)
    machine.check_idle()


def test_an_owner_stays_within_its_share_and_everybody_gets_what_he_would_get_alone() -> None:
    machine = Machine(num_blocks=16, max_model_len=32, max_num_seqs=8)
    crowd = [machine.add([tag] * 6, salt="crowd", share=0.5, max_tokens=20, ignore_eos=True) for tag in range(1, 6)]
    for _ in range(3):
        machine.step()
    other = machine.add([7] * 6, salt="other", max_tokens=20, ignore_eos=True)
    machine.step()
    assert machine.output(other), "who waits for its own share holds up nobody else"
    machine.run()
    for request_id in [*crowd, other]:
        assert machine.output(request_id) == machine.alone(request_id)
    machine.check_idle()


def test_what_can_never_fit_into_a_share_is_refused() -> None:
    machine = Machine(num_blocks=16)
    with pytest.raises(ValueError, match="its tenant's share is 4"):
        machine.add([1] * 20, share=0.25)


def test_the_steps_time_is_divided_among_the_requests() -> None:
    machine = Machine()
    ids = [machine.add([tag] * 4, max_tokens=3, ignore_eos=True) for tag in (1, 2)]
    machine.run()
    charged = [sum(delta.device_seconds for delta in machine.deltas[request_id, 0]) for request_id in ids]
    assert charged[0] == pytest.approx(charged[1])
    assert 0 < sum(charged) <= machine.engine.stats().step_seconds


class TimedTiers(SimulatedTiers):
    """Notes what the step loop tells of its steps."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.device.kv, machine.config.block_size)
        self.steps: list[str] = []
        self.computed: list[int] = []

    def step_begins(self) -> None:
        self.steps.append("begins")

    def step_ends(self) -> None:
        self.steps.append("ends")

    def note_computed(self, num_tokens: int, seconds: float) -> None:
        assert seconds > 0
        self.computed.append(num_tokens)


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_tiers_hear_of_each_step_and_of_what_was_computed_of_those_alone_that_read_prompts(runs_ahead: bool) -> None:
    machine = Machine(runs_ahead=runs_ahead, drafts=True)
    tiers = TimedTiers(machine)
    machine.engine = Engine(machine.device, machine.scheduler, machine.adapters, tiers)
    for tag in (1, 2):
        machine.add([tag] * 5, max_tokens=6, ignore_eos=True)
    machine.run()
    assert tiers.computed == [10]
    assert tiers.steps == ["begins", "ends"] * machine.engine.stats().steps


def test_a_failing_request_fails_alone_in_a_full_batch(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(num_blocks=64, max_num_seqs=8)
    others = [machine.add([1, 2, 3], ignore_eos=True), machine.add([1, 2, 3, 4, 5], adapter="a")]
    victim = machine.add([4, 5, 6], n=2, ignore_eos=True)
    others += [machine.add([7, 8, 9], n=2), machine.add([1, 2, 3, 6], salt="t")]
    machine.step()
    machine.device.poisonous.add(victim)
    with caplog.at_level(logging.ERROR):
        machine.step()
    for index in (0, 1):
        last = machine.last(victim, index)
        assert last.finish_reason == "error"
        assert last.failure is not None
        assert last.failure.code == "internal_error"
        assert "RuntimeError" in last.failure.message
        assert "secret" not in last.failure.message
    assert "secret" in caplog.text
    machine.run()
    for request_id in others:
        for index in range(machine.requests[request_id].params.num_sequences):
            assert machine.output(request_id, index) == machine.alone(request_id, index)
    machine.check_idle()


def test_a_lost_device_ends_the_engine() -> None:
    """Failing requests one by one would go on for ever; the supervisor starts the process anew."""
    machine = Machine()
    machine.add([1, 2, 3])

    def lost(batch: ScheduledBatch) -> FakeStep:
        raise DeviceLost("an illegal memory access was encountered")

    machine.device.launch = lost  # type: ignore[method-assign]
    with pytest.raises(DeviceLost):
        machine.step()


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_an_interrupted_step_is_taken_up_again(runs_ahead: bool) -> None:
    machine = Machine(num_blocks=64, runs_ahead=runs_ahead)
    ids = [machine.add([1, 2, 3], ignore_eos=True), machine.add([4, 5, 6, 7, 8], adapter="a")]
    machine.step()
    launch = machine.device.launch

    def interrupted(batch: ScheduledBatch) -> FakeStep:
        raise KeyboardInterrupt

    machine.device.launch = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        machine.step()
    machine.device.launch = launch  # type: ignore[method-assign]
    machine.run()
    assert [machine.output(request_id) for request_id in ids] == [machine.alone(request_id) for request_id in ids]


def test_a_device_that_runs_ahead_is_given_the_next_step_before_it_says_what_it_sampled() -> None:
    machine = Machine(num_blocks=64, runs_ahead=True)
    ids = [machine.add([1, 2, 3], ignore_eos=True, max_tokens=6), machine.add([4, 5, 6, 7, 8], ignore_eos=True)]
    assert not machine.step(), "the first outputs come with the second step"
    machine.run()
    assert machine.num_steps == 9, "one step for the last outputs: nothing was scheduled beyond max_tokens"
    assert machine.device.steps_ahead == 2 * (5 + 7), "each decode, when it was given its token and when it sampled"
    assert [machine.output(request_id) for request_id in ids] == [machine.alone(request_id) for request_id in ids]


@pytest.mark.parametrize("num_requests", [1, 2, 3, 7])
def test_stages_have_batches_of_different_sequences(num_requests: int) -> None:
    machine = Machine(num_blocks=128, stages=3, max_num_seqs=8)
    ids = [machine.add([1, 2, tag], ignore_eos=True, max_tokens=10) for tag in range(num_requests)]
    machine.run()
    assert machine.device.most_in_flight == min(3, num_requests)
    assert [machine.output(request_id) for request_id in ids] == [machine.alone(request_id) for request_id in ids]
    machine.check_idle()


def test_parts_of_one_prompt_are_computed_by_all_stages_at_once() -> None:
    machine = Machine(num_blocks=64, stages=3, max_num_batched_tokens=4)
    request_id = machine.add([*range(1, 11)] * 2, ignore_eos=True)
    machine.step()
    machine.step()
    assert len(machine.device.in_flight) == 2
    assert not machine.deltas
    machine.run()
    assert machine.device.most_in_flight == 3
    assert machine.output(request_id) == machine.alone(request_id)


def test_what_stages_still_compute_of_an_aborted_request_is_waited_for_and_dropped() -> None:
    machine = Machine(num_blocks=64, stages=3)
    first, *others = (machine.add([tag, tag + 1], ignore_eos=True, max_tokens=20) for tag in (1, 2, 3))
    for _ in range(6):
        machine.step()
    assert len(machine.device.in_flight) == 2
    for request_id in (first, *others):
        machine.engine.abort(request_id)
    assert not machine.engine.has_work
    again = machine.add([5, 6], ignore_eos=True)
    machine.run()
    assert machine.output(again) == machine.alone(again)
    assert not machine.device.in_flight


def test_drafts_save_steps_and_change_no_answer() -> None:
    num_steps = []
    for drafts in (False, True):
        machine = Machine(num_blocks=64, drafts=drafts)
        ids = [
            machine.add([1, 2, 3] * count, adapter=adapter, n=n, ignore_eos=True, max_tokens=20)
            for count, adapter, n in ((1, None, 1), (3, "a", 2), (4, "b", 1))
        ]
        machine.run()
        for request_id in ids:
            for index in range(machine.requests[request_id].params.num_sequences):
                assert machine.output(request_id, index) == machine.alone(request_id, index)
                assert len(machine.deltas[request_id, index]) == 20, "a token is a delta, as without drafts"
        machine.check_idle()
        num_steps.append(machine.num_steps)
    assert num_steps[1] <= 0.7 * num_steps[0]
    stats = machine.engine.stats()
    assert (stats.draft_tokens, stats.accepted_tokens) == (machine.drafts.drafted, machine.drafts.accepted)
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    assert stats.generation_tokens == 4 * 20


def test_an_answer_that_ends_inside_its_draft_has_nothing_behind_its_end() -> None:
    """EOS, a stop token and max_tokens."""
    ends = []
    for start in range(40):
        for params in ({}, {"stop_token_ids": [5]}, {"ignore_eos": True, "max_tokens": 1 + start % 9}):
            machine = Machine(num_blocks=64, drafts=True)
            request_id = machine.add([1 + start % 10, 1 + start // 10], **{"max_tokens": 25, **params})
            machine.run()
            expected = machine.alone(request_id)
            if 5 in expected and "stop_token_ids" in params:
                expected = expected[: expected.index(5) + 1]
            assert machine.output(request_id) == expected
            ends.append((machine.last(request_id).finish_reason, machine.engine.stats().accepted_tokens > 0))
            machine.check_idle()
    assert {("stop", True), ("length", True)} <= set(ends)


def test_drafts_take_neither_blocks_nor_budget_from_other_sequences() -> None:
    """Only what all running sequences leave over: nothing is preempted that would not be without drafts."""
    found = []
    for drafts in (False, True):
        machine = Machine(num_blocks=12, max_num_batched_tokens=4, max_num_seqs=4, drafts=drafts)
        ids = [machine.add([tag] * 3, max_tokens=9, ignore_eos=True) for tag in (1, 2, 3, 4)]
        machine.run()
        assert machine.device.largest_batch <= 4
        assert [machine.output(request_id) for request_id in ids] == [machine.alone(request_id) for request_id in ids]
        found.append(machine.engine.stats().preemptions)
    assert found == [0, 0]


def test_what_was_drafted_wrongly_is_found_in_no_cache() -> None:
    machine = Machine(num_blocks=64, drafts=True)
    first = machine.add([1, 2, 3, 4, 5], max_tokens=25, ignore_eos=True)
    machine.run()
    assert machine.engine.stats().draft_tokens > machine.engine.stats().accepted_tokens
    text = [1, 2, 3, 4, 5, *machine.output(first)]
    again = machine.add(text, max_tokens=5, ignore_eos=True)
    machine.run()
    # The last token of an answer is never computed.
    assert machine.deltas[again, 0][0].cached_tokens == (len(text) - 1) // 4 * 4
    assert machine.output(again) == machine.alone(again)


def test_what_needs_its_last_token_is_computed_ahead_and_chosen_once_that_is_known() -> None:
    machine = Machine(num_blocks=64, runs_ahead=True)
    ids = [machine.add([1, 2, 3], ignore_eos=True, presence_penalty=0.5), machine.add([4, 5, 6], ignore_eos=True)]
    machine.run()
    assert machine.device.steps_ahead == 2 * 7, "each decode was given its token before the host knew it"
    assert machine.num_steps == 9, "one after the other, and one for the last outputs"
    assert [machine.output(request_id) for request_id in ids] == [machine.alone(request_id) for request_id in ids]


def test_a_choice_that_fails_fails_the_one_request_that_is_to_blame() -> None:
    machine = Machine(num_blocks=64, runs_ahead=True)
    bad, good = (machine.add([tag, 2, 3], ignore_eos=True, presence_penalty=0.5) for tag in (1, 4))
    output, device = machine.device._output, machine.device

    def choose(entry: Scheduled) -> StepOutput:
        if entry.sequence.request_id == bad and entry.num_output_tokens == 3:
            raise RuntimeError("secret path /srv/models")
        return output(entry)

    device._output = choose  # type: ignore[method-assign]
    machine.run()
    assert len(machine.failures(bad)) == 1
    assert machine.output(bad) == machine.alone(bad)[:3]
    assert machine.output(good) == machine.alone(good)
    machine.check_idle()


def test_one_sequence_may_end_before_its_siblings() -> None:
    machine = Machine(num_blocks=64, max_num_seqs=2)
    request_id = machine.add([1, 2, 3], n=4, ignore_eos=True)
    for _ in range(3):
        machine.step()
    for index in (1, 3, 3):  # running, waiting, and once more
        machine.engine.abort(request_id, index)
    said = machine.output(request_id, 1)
    machine.run()
    assert machine.output(request_id, 1) == said
    assert not machine.output(request_id, 3)
    for index in (0, 2):
        assert machine.output(request_id, index) == machine.alone(request_id, index)
    machine.check_idle()


@pytest.mark.parametrize("prompt", [[-1] * 4, [VOCABULARY] * 4, [1, 2, 2**32], [1, -1], []])
def test_token_ids_beyond_the_vocabulary_are_refused(prompt: list[int]) -> None:
    machine = Machine()
    with pytest.raises(ValueError, match="token"):
        machine.add(prompt)
    assert not machine.engine.has_work


def test_the_first_delta_says_how_long_the_sequence_waited() -> None:
    machine = Machine(max_num_seqs=1)
    first, second = (machine.add([1, 2], max_tokens=2, ignore_eos=True) for _ in range(2))
    while machine.engine.has_work:
        machine.clock.now += 1
        machine.step()
    waited = {name: [delta.queued_seconds for delta in machine.deltas[name, 0]] for name in (first, second)}
    assert waited == {first: [1.0, 0.0], second: [3.0, 0.0]}


def test_distant_deadlines_of_ended_requests_do_not_pile_up() -> None:
    machine = Machine()
    for _ in range(500):
        machine.add([1], max_tokens=1, deadline=machine.clock.now + 86_400)
        machine.run()
    assert len(machine.scheduler._live.waiting.deadlines) < 100
    late = machine.add([1], deadline=machine.clock.now + 1)
    machine.clock.now += 2
    machine.step()
    assert machine.last(late).failure == EngineFailure("deadline_exceeded", "the request's deadline passed")


@pytest.mark.parametrize("outputs", [[], [StepOutput()]])
def test_a_runner_that_breaks_its_contract_fails_the_batch(outputs: list[StepOutput]) -> None:
    machine = Machine()
    request_id = machine.add([1, 2, 3])

    def launch(batch: ScheduledBatch) -> FakeStep:
        step = FakeStep(lambda: outputs)
        step.choose()
        return step

    machine.device.launch = launch  # type: ignore[method-assign]
    machine.step()
    assert machine.last(request_id).finish_reason == "error"
    machine.check_idle()


def test_a_broken_adapter_fails_only_those_who_name_it() -> None:
    machine = Machine(broken=frozenset({"bad"}))
    bad = machine.add([1, 2], adapter="bad", n=2)
    good = machine.add([1, 2], adapter="a")
    machine.run()
    for index in (0, 1):
        last = machine.last(bad, index)
        assert last.failure is not None
        assert last.failure.code == "adapter_unavailable"
        assert last.failure.message == "bad is broken"
    assert machine.output(good) == machine.alone(good)
    machine.check_idle()


def test_stalled_means_work_without_a_batch() -> None:
    machine = Machine(load_polls=3)
    assert not machine.engine.is_stalled
    request_id = machine.add([1, 2], adapter="a", ignore_eos=True)
    machine.step()
    assert machine.engine.is_stalled
    while not machine.output(request_id):
        machine.step()
    assert not machine.engine.is_stalled
    machine.engine.abort(request_id)
    assert not machine.engine.has_work
    machine.step()
    assert not machine.engine.is_stalled


def test_stats_add_up() -> None:
    machine = Machine(num_blocks=64)
    prompt = [1, 2, 3, 4, 5, 6]
    for _ in range(2):
        machine.add(prompt, max_tokens=5, ignore_eos=True, adapter="a")
        machine.run()
    stats = machine.engine.stats()
    assert (stats.prompt_tokens, stats.generation_tokens) == (12, 10)
    assert (stats.cache_queries, stats.cache_hits) == (12, 4)
    assert stats.adapter_loads == 1
    assert stats.cached_blocks == 2
    assert stats.steps > 0
    assert stats.step_seconds > 0
    assert sum(stats.step_tokens.counts) == stats.steps
    # The second prompt's first block came from the cache; the last token of an answer is never computed.
    assert stats.step_tokens.total == 12 - 4 + 2 * 4
    assert stats.sequence_preemptions.counts[0] == 2


def test_preemptions_are_counted_by_sequence() -> None:
    machine = Machine(num_blocks=6)
    for start in (1, 4):
        machine.add(list(range(start, start + 5)), max_tokens=14, ignore_eos=True)
    machine.run()
    stats = machine.engine.stats()
    assert stats.preemptions > 0
    assert sum(stats.sequence_preemptions.counts) == 2
    assert stats.sequence_preemptions.total == stats.preemptions


def test_who_waits_for_an_adapter_is_told_to_come_back_later() -> None:
    machine = Machine(num_blocks=64, num_slots=1, adapter_timeout=10.0, slot_patience=10**9)
    hot = machine.add([1, 2], adapter="hot", max_tokens=30, ignore_eos=True)
    for _ in range(4):
        machine.step()
    cold = machine.add([3], adapter="cold", n=2)
    base = machine.add([4], max_tokens=2)
    machine.step()
    assert machine.engine.stats().deferred == machine.engine.stats().waiting == 2
    machine.clock.now += 10
    machine.step()
    assert not machine.failures(cold), "not before its time"
    machine.clock.now += 1
    machine.run()
    assert [failure.code for failure in machine.failures(cold)] == ["adapter_loading"] * 2
    assert "--max-loras" in machine.failures(cold)[0].message
    assert machine.output(hot) == machine.alone(hot)
    assert machine.output(base) == machine.alone(base)


def test_an_answer_that_has_begun_waits_for_its_adapter_however_long() -> None:
    """Preempted, it finds its slot taken by another adapter."""
    machine = Machine(num_blocks=6, num_slots=1, adapter_timeout=10.0)
    machine.add([1, 2, 3, 4, 5], max_tokens=14, ignore_eos=True)
    preempted = machine.add([4, 5, 6, 7, 8], adapter="a", max_tokens=14, ignore_eos=True)
    while not machine.engine.stats().preemptions:
        machine.step()
    assert machine.output(preempted)
    machine.adapters.slots, machine.adapters.pinned = ["other"], {"other"}
    machine.clock.now += 1000
    for _ in range(40):
        machine.step()
    assert not machine.failures(preempted)
    machine.adapters.slots = [None]
    machine.run()
    assert machine.output(preempted) == machine.alone(preempted)


def test_a_deadline_that_passes_before_the_adapter_comes_says_so() -> None:
    machine = Machine(num_slots=1, load_polls=10**9)
    late = machine.add([1], adapter="slow", deadline=machine.clock.now + 5)
    machine.step()
    machine.clock.now += 6
    machine.step()
    (failure,) = machine.failures(late)
    assert (failure.code, failure.message) == (
        "deadline_exceeded",
        "the request's deadline passed while it waited for its adapter",
    )


def longest_wait(num_adapters: int, num_slots: int, *, slot_patience: int) -> int:
    """Steps from arrival to first token, the worst of them, under random traffic near what the batch can carry."""
    chance = random.Random(1)
    machine = Machine(
        num_blocks=512, num_slots=num_slots, max_num_seqs=16, max_num_batched_tokens=64, slot_patience=slot_patience
    )
    arrivals: dict[str, int] = {}
    waits: dict[str, int] = {}
    while machine.num_steps < 1200 or machine.engine.has_work:
        if machine.num_steps < 1200 and chance.random() < 0.7:
            prompt = [chance.randrange(1, VOCABULARY) for _ in range(5)]
            adapter = f"a{chance.randrange(num_adapters)}"
            arrivals[machine.add(prompt, adapter=adapter, max_tokens=20, ignore_eos=True)] = machine.num_steps
        for delta in machine.step():
            waits.setdefault(delta.request_id, machine.num_steps - arrivals[delta.request_id])
        assert machine.num_steps < 2000, "the backlog does not drain"
    assert waits.keys() == arrivals.keys()
    return max(waits.values())


@pytest.mark.parametrize(("num_adapters", "num_slots", "bound"), [(6, 3, 90), (16, 8, 60)])
def test_more_adapters_than_slots_wait_a_bounded_time(num_adapters: int, num_slots: int, bound: int) -> None:
    assert longest_wait(num_adapters, num_slots, slot_patience=16) <= bound


def steps_until_served(*, slot_patience: int, num_cold: int = 1, pinned: frozenset[str] = frozenset()) -> int | None:
    """Three hot adapters hold three slots, each with a new request before the last one ends; cold ones arrive."""
    machine = Machine(num_blocks=256, num_slots=3, max_num_seqs=16, slot_patience=slot_patience)
    machine.adapters.pinned |= pinned
    cold: list[str] = []
    for step in range(400):
        if step % 5 == 0:
            for hot in ("a", "b", "c"):
                machine.add([1, 2, 3], adapter=hot, max_tokens=12, ignore_eos=True)
        if step == 20:
            cold = [machine.add([4, 5], adapter=f"cold{i}", max_tokens=2) for i in range(num_cold)]
        machine.step()
        if cold and all(machine.output(request_id) for request_id in cold):
            return step - 20
    return None


def test_an_adapter_among_hot_ones_is_served_after_patience_and_one_drain() -> None:
    assert steps_until_served(slot_patience=10**9) is None, "the traffic would starve it without draining"
    waited = steps_until_served(slot_patience=16)
    assert waited is not None
    assert waited <= 16 + 12 + 4


def test_starving_adapters_drain_different_victims() -> None:
    waited = steps_until_served(slot_patience=16, num_cold=3)
    assert waited is not None
    assert waited <= 16 + 12 + 8


def test_pinned_adapters_are_not_drained() -> None:
    waited = steps_until_served(slot_patience=16, pinned=frozenset("ab"))
    assert waited is not None
    assert waited <= 16 + 12 + 4


def test_draining_in_vain_gives_the_slots_back() -> None:
    machine = Machine(num_blocks=256, num_slots=1, max_num_seqs=16, slot_patience=4)
    machine.add([1], adapter="hot", max_tokens=6, ignore_eos=True)
    for _ in range(4):
        machine.step()
    machine.adapters.pinned.add("hot")
    cold = machine.add([2], adapter="cold")
    for _ in range(12):
        machine.step()
    hot = machine.add([3], adapter="hot")
    for _ in range(12):
        machine.step()
    assert machine.output(hot) == machine.alone(hot)
    assert not machine.output(cold)
    machine.adapters.pinned.clear()
    machine.run()
    assert machine.output(cold) == machine.alone(cold)


PREFIXES = ([1, 2, 3, 4] * 2, [1, 2, 3, 4] * 3, [1, 2, 3, 4, 5, 6, 7, 8, 9], [5])
DIGESTS = (None, "a", "b", "c", "bad")


class Inline(Executor):
    """In place of a thread, so that what is found does not depend on when a thread runs."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*arguments, **named))
        return done


class EngineMachine(RuleBasedStateMachine):
    """Random lives on 12 blocks of 4, 3 sequences, 9 tokens a step, 2 slots for 3 adapters and a broken one."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(
            num_blocks=12,
            max_model_len=36,
            max_num_seqs=3,
            max_num_batched_tokens=9,
            slot_patience=6,
            broken=frozenset({"bad"}),
        )
        admin = self.machine.engine.cache_admin
        admin._rows_at_once, admin._blocks_at_once, admin._thread = 5, 2, Inline()
        self.aborted: set[str] = set()
        self.ended: set[tuple[str, int]] = set()
        self.has_pinned = False
        self.machine.device.during = self.run_pending_abort
        self.pending_abort: str | None = None

    @initialize(
        runs_ahead=st.booleans(),
        stages=st.sampled_from([1, 1, 2, 3]),
        fails_late=st.booleans(),
        drafts=st.booleans(),
        tiers=st.booleans(),
        most=st.sampled_from([9, 4, 3]),
    )
    def choose_device(
        self, runs_ahead: bool, stages: int, fails_late: bool, drafts: bool, tiers: bool, most: int
    ) -> None:
        """most: tokens of a chunk; where they are few, several prefills share a step, and sequences do not wait for
        each other's blocks."""
        ahead = runs_ahead and stages == 1
        self.machine.device.runs_ahead = self.machine.scheduler.runs_ahead = ahead
        self.machine.device.stages = stages
        self.machine.device.fails_late = fails_late
        self.machine.drafts.is_on = drafts
        self.machine.tiers.is_on = tiers
        scheduler = self.machine.scheduler
        scheduler.config = replace(scheduler.config, num_batches=stages)
        if most < 9:
            schedule_chunk = scheduler._schedule_chunk
            scheduler._schedule_chunk = (  # type: ignore[method-assign]
                lambda sequence, budget, entries: schedule_chunk(sequence, min(budget, most), entries)
            )
            scheduler._admission._config = replace(scheduler.config, prefix_wait_steps=0)

    def live(self) -> list[str]:
        return sorted(self.machine.scheduler._live.requests)

    def run_pending_abort(self) -> None:
        if self.pending_abort is not None:
            self.abort_now(self.pending_abort)
            self.pending_abort = None

    def abort_now(self, request_id: str) -> None:
        self.machine.engine.abort(request_id)
        self.aborted.add(request_id)

    @rule(
        prefix=st.sampled_from(PREFIXES),
        tail=st.lists(st.integers(1, VOCABULARY - 1), max_size=7),
        adapter=st.sampled_from(DIGESTS),
        salt=st.sampled_from(["", "a"]),
        max_tokens=st.integers(0, 20),
        min_tokens=st.integers(0, 3),
        ignore_eos=st.booleans(),
        n=st.sampled_from([1, 1, 1, 2, 4]),
        priority=st.sampled_from([0, 0, 0, -1, 1]),
        patience=st.none() | st.integers(0, 30),
        prompt_logprobs=st.sampled_from([None, None, 1]),
        presence_penalty=st.sampled_from([0.0, 0.0, 0.5]),
    )
    def add(
        self,
        prefix: list[int],
        tail: list[int],
        adapter: str | None,
        salt: str,
        max_tokens: int,
        min_tokens: int,
        ignore_eos: bool,
        n: int,
        priority: int,
        patience: int | None,
        prompt_logprobs: int | None,
        presence_penalty: float,
    ) -> None:
        self.machine.add(
            prefix + tail,
            adapter=adapter,
            salt=salt,
            share=0.75 if salt else 1.0,
            max_tokens=max_tokens,
            min_tokens=min(min_tokens, max_tokens),
            ignore_eos=ignore_eos,
            n=n,
            priority=priority,
            deadline=None if patience is None else self.machine.clock.now + patience,
            prompt_logprobs=prompt_logprobs,
            presence_penalty=presence_penalty,
        )

    @rule(count=st.integers(1, 6))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.machine.step()
            self.machine.engine.cache_admin.advance()
            self.machine.clock.now += 1

    @precondition(lambda self: self.live())
    @rule(data=st.data(), during_step=st.booleans())
    def abort(self, data: st.DataObject, during_step: bool) -> None:
        request_id = data.draw(st.sampled_from(self.live()))
        if during_step:
            self.pending_abort = request_id
            self.machine.step()
            self.run_pending_abort()
        else:
            self.abort_now(request_id)

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def poison(self, data: st.DataObject) -> None:
        self.machine.device.poisonous.add(data.draw(st.sampled_from(self.live())))

    @precondition(lambda self: self.live())
    @rule(data=st.data(), index=st.integers(0, 3))
    def end_one_sequence(self, data: st.DataObject, index: int) -> None:
        request_id = data.draw(st.sampled_from(self.live()))
        self.machine.engine.abort(request_id, index)
        self.ended.add((request_id, index))

    def ask(self, action: str, hash: str = "") -> CacheReply:
        """Answered before the next step, behind what was asked before."""
        admin = self.machine.engine.cache_admin
        admin.submit(CacheRequest(1, action, hash))
        while True:
            for reply in admin.advance():
                if reply.call_id == 1:
                    return reply
            assert admin.has_work

    @rule(data=st.data(), action=st.sampled_from(["report", "pin", "unpin", "drop", "tokens"]))
    def ask_between_steps(self, data: st.DataObject, action: str) -> None:
        """The engine goes on while it is answered: the blocks that were seen are given away, and come back."""
        nodes = self.ask("report").nodes
        if nodes:
            node = data.draw(st.sampled_from(sorted(nodes, key=lambda node: (node.tokens, node.hash))))
            self.machine.engine.cache_admin.submit(CacheRequest(2, action, node.hash))
            self.has_pinned |= action == "pin"

    @rule(data=st.data(), action=st.sampled_from(["pin", "unpin", "drop", "tokens"]))
    def steer_cache(self, data: st.DataObject, action: str) -> None:
        nodes = self.ask("report").nodes
        assert sum(node.blocks for node in nodes) == self.machine.scheduler.pool.num_published
        assert {node.parent for node in nodes} <= {None, *(node.hash for node in nodes)}
        if nodes:
            node = data.draw(st.sampled_from(sorted(nodes, key=lambda node: (node.tokens, node.hash))))
            reply = self.ask(action, node.hash)
            self.has_pinned |= action == "pin"
            assert reply.error is None or action == "pin"
            assert len(reply.token_ids) == (node.tokens if action == "tokens" else 0)

    @rule(digest=st.sampled_from(["a", "b"]), how=st.sampled_from(["add", "discard"]))
    def pin(self, digest: str, how: Literal["add", "discard"]) -> None:
        getattr(self.machine.adapters.pinned, how)(digest)

    @invariant()
    def the_books_balance(self) -> None:
        scheduler, pool = self.machine.scheduler, self.machine.scheduler.pool
        running, waiting = scheduler._live.running, list(scheduler._live.waiting)
        held = Counter(block_id for sequence in running for block_id in sequence.block_table)
        held.update(block_id for ids in scheduler.cache_admin._pins.values() for block_id in ids)
        assert scheduler._loads is not None
        held.update(block_id for loading in scheduler._loads._loading.values() for block_id in loading.table)
        assert [pool.references(b) for b in range(pool.num_blocks)] == [held[b] for b in range(pool.num_blocks)]
        assert pool.num_free == pool.num_blocks - len(held)
        assert +self.machine.adapters.users == Counter(s.adapter_digest for s in running if s.adapter_digest)
        for queue in (running, waiting):
            assert queue == sorted(queue, key=lambda sequence: sequence.order)
        assert all(sequence.status is SequenceStatus.RUNNING for sequence in running)
        assert all(sequence.status is SequenceStatus.WAITING for sequence in waiting)
        assert not any(sequence.block_table or sequence.num_computed_tokens for sequence in waiting)
        assert len(running) <= scheduler.config.max_num_seqs
        assert self.machine.device.largest_batch <= scheduler.config.max_num_batched_tokens
        computing = set(map(id, scheduler._cache._computing.values()))
        assert computing <= set(map(id, running)), "nobody waits for a sequence that does not run"

    def teardown(self) -> None:
        self.machine.adapters.pinned.clear()
        self.ask("report")
        for hash in list(self.machine.scheduler.cache_admin._pins):
            self.ask("unpin", hash.hex())
        self.machine.run()
        self.machine.check_idle()
        assert not self.machine.scheduler._cache._computing
        for request in self.machine.requests.values():
            for index in range(request.params.num_sequences):
                self.check_output(request, index)

    def check_output(self, request: GenerateRequest, index: int) -> None:
        deltas = self.machine.deltas.get((request.id, index), [])
        expected, output = self.machine.alone(request.id, index), self.machine.output(request.id, index)
        assert output == expected[: len(output)]
        finish = deltas[-1].finish_reason if deltas else None
        if finish in ("stop", "length"):
            assert output == expected
            assert (finish == "stop") == (bool(output) and output[-1] == EOS and not request.params.ignore_eos) or (
                len(output) == request.params.max_tokens
            )
            self.check_prompt_logprobs(request, index, deltas)
        elif finish is None:
            assert request.id in self.aborted or (request.id, index) in self.ended
        else:
            failure = deltas[-1].failure
            assert failure is not None
            assert failure.code in ("deadline_exceeded", "internal_error", "adapter_unavailable", "kv_cache_pinned")
            assert (failure.code == "kv_cache_pinned") <= self.has_pinned
            assert (failure.code == "internal_error") <= (request.id in self.machine.device.poisonous)

    def check_prompt_logprobs(self, request: GenerateRequest, index: int, deltas: list[TokenDelta]) -> None:
        expected = None
        if request.params.prompt_logprobs is not None and index == 0:
            prompt = request.prompt_token_ids
            expected = [
                None,
                *(prompt_logprob(request.adapter_digest, prompt[:end]) for end in range(2, len(prompt) + 1)),
            ]
        assert deltas[0].prompt_logprobs == expected
        assert all(delta.prompt_logprobs is None for delta in deltas[1:])


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
