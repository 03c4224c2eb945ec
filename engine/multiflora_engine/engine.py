"""The step loop's body: adapters move, a batch is scheduled, executed and committed. One step is one call.

Knows neither what a model is nor who asks: the process that owns it moves requests in and deltas out.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from multiflora_adapters.storage.host_cache import HostCache
from multiflora_engine.cache.cache_admin import CacheAdmin
from multiflora_engine.core.adapter_source import AdapterSource
from multiflora_engine.core.block_tiers import BlockTiers
from multiflora_engine.core.step import (
    DeviceLost,
    ModelRunner,
    RunningStep,
    Scheduled,
    ScheduledBatch,
    StepOutput,
)
from multiflora_engine.protocol.histograms import STEP_TOKENS, Histogram
from multiflora_engine.protocol.messages import EngineStats
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_engine.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)


class PolledAdapterSource(AdapterSource, Protocol):
    """The adapter source with the parts that only the step loop needs."""

    loads: int
    evictions: int

    def memory(self) -> tuple[int, int]:
        """Bytes that adapters take now: in slots, and as copies in host memory."""
        ...

    def stage_memory(self) -> list[int]:
        """Of each stage of ranks, bytes that adapters take in slots; empty without any."""
        ...

    def poll(self) -> None:
        """Takes in finished loads and copies a bounded amount to the device."""
        ...


class TimedTiers(BlockTiers, Protocol):
    """The scheduler's tiers with the parts that only the step loop needs."""

    def step_begins(self) -> None:
        """The device computes from now on, perhaps on the processor that copies blocks."""
        ...

    def step_ends(self) -> None: ...

    def note_computed(self, num_tokens: int, seconds: float) -> None:
        """One step that read prompts took so long."""
        ...


@dataclass(frozen=True, eq=False)
class _Launched:
    """began: perf_counter seconds. computed: seconds of the processor that its launch took."""

    batch: ScheduledBatch
    step: RunningStep
    began: float
    computed: float


class Engine:
    """Scheduler, runner and adapters behind one `step`. Single-threaded: call everything from the step loop."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        residency: PolledAdapterSource,
        tiers: TimedTiers | None = None,
        artifacts: HostCache | None = None,
    ) -> None:
        """tiers: the scheduler's, if it has any. artifacts: what this host keeps of them; None: it is not told."""
        self._runner = runner
        self._scheduler = scheduler
        self._residency = residency
        self._tiers = tiers
        self._artifacts = artifacts
        self._steps = 0
        self._step_seconds = 0.0
        self._step_tokens = Histogram(STEP_TOKENS)
        self._is_stalled = False
        self._committed_at = 0.0
        self._in_flight: deque[_Launched] = deque()

    @property
    def has_work(self) -> bool:
        """Whether any request has not ended yet, or blocks are loaded into its cache."""
        return self._scheduler.has_work

    @property
    def is_stalled(self) -> bool:
        """Whether the last step could run nothing although requests wait (for an adapter, mostly).

        The step loop should then sleep until an adapter's load ends, a message arrives or a few milliseconds passed.
        """
        return self._is_stalled and self.has_work

    def add_request(self, request: GenerateRequest) -> None:
        """Raises QueueFull, or ValueError for what cannot be run; nothing is queued then."""
        self._scheduler.add(request)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """The request, or one of its sequences, ends without another delta and its memory is free at once."""
        self._scheduler.abort(request_id, index)

    def give_back(self, request_id: str) -> bool:
        """True where the request had not begun: it is forgotten. Otherwise it goes on."""
        return self._scheduler.give_back(request_id)

    def step(self) -> list[TokenDelta]:
        """Gives the device one batch and returns what the batch before it added (where several stages compute: what the
        oldest in flight did; on a device that does not run ahead: what this one did). What goes wrong with a request
        inside a batch fails that request alone; raises DeviceLost.
        """
        began = time.perf_counter()
        self._residency.poll()
        batch = self._scheduler.schedule()
        deltas = list(batch.failures)
        self._is_stalled = not batch.entries and not self._in_flight
        if self._is_stalled:
            return deltas
        deltas += self._execute(batch)
        self._steps += 1
        self._step_seconds += time.perf_counter() - began
        return deltas

    def stats(self) -> EngineStats:
        adapter_bytes, adapter_host_bytes = self._residency.memory()
        kept = self._artifacts
        return replace(
            self._scheduler.stats(),
            artifact_fetches=0 if kept is None else kept.fetches,
            artifact_fetched_bytes=0 if kept is None else kept.fetched_bytes,
            artifact_evictions=0 if kept is None else kept.evictions,
            artifact_cache_bytes=0 if kept is None else kept.bytes,
            adapter_bytes=adapter_bytes,
            adapter_host_bytes=adapter_host_bytes,
            stage_adapter_bytes=self._residency.stage_memory(),
            tiers=[] if self._tiers is None else self._tiers.stats(),
            steps=self._steps,
            step_seconds=self._step_seconds,
            step_tokens=self._step_tokens.read(),
            adapter_loads=self._residency.loads,
            adapter_evictions=self._residency.evictions,
        )

    @property
    def cache_admin(self) -> CacheAdmin:
        """What operators ask of the prefix cache; `advance` it between steps."""
        return self._scheduler.cache_admin

    def _execute(self, batch: ScheduledBatch) -> list[TokenDelta]:
        execute = self._advance if self._runner.depth > 1 else self._run
        if self._tiers is None:
            return execute(batch)
        self._tiers.step_begins()
        try:
            return execute(batch)
        finally:
            self._tiers.step_ends()

    def _advance(self, batch: ScheduledBatch) -> list[TokenDelta]:
        """Launches the batch, then takes in an earlier one: the device computes while the host does so. Rows whose
        choice depends on what that one sampled have it by then, and the device is still at this batch."""
        began, computed = time.perf_counter(), time.thread_time()
        try:
            step = self._runner.launch(batch) if batch.entries else None
        except DeviceLost:
            raise
        except Exception:  # the sequence to blame is found with nothing else in flight
            return self._collect(keep=0) + self._run_live(batch.entries)
        except BaseException:
            self._scheduler.withdraw(batch)
            raise
        if step is None:
            return self._collect(keep=len(self._in_flight) - 1)
        launched = _Launched(batch, step, began, time.thread_time() - computed)
        self._in_flight.append(launched)
        return self._collect(keep=self._runner.depth - 1) + self._choose(launched)

    def _choose(self, launched: _Launched) -> list[TokenDelta]:
        """Unless the batch was withdrawn meanwhile."""
        if launched not in self._in_flight:
            return []
        try:
            launched.step.choose()
        except DeviceLost:
            raise
        except Exception:
            self._in_flight.remove(launched)
            return self._run_live(launched.batch.entries)
        return []

    def _collect(self, keep: int) -> list[TokenDelta]:
        """Takes in the oldest batches until `keep` are in flight, or none if no live sequence is in the rest."""
        deltas: list[TokenDelta] = []
        while len(self._in_flight) > keep:
            deltas += self._take_in(self._in_flight[0])
        if not any(entry.is_live for launched in self._in_flight for entry in launched.batch.entries):
            self._drop_in_flight()
        return deltas

    def _drop_in_flight(self) -> None:
        while self._in_flight:
            self._in_flight.popleft().step.drop()

    def _take_in(self, oldest: _Launched) -> list[TokenDelta]:
        computed = time.thread_time()
        try:
            outputs = oldest.step.collect()
            _check(oldest.batch, outputs)
        except DeviceLost:
            raise
        except Exception:
            self._in_flight.popleft()
            for launched in reversed(self._in_flight):
                self._scheduler.withdraw(launched.batch)
            self._drop_in_flight()
            return self._run_live(oldest.batch.entries)
        self._in_flight.popleft()
        self._scheduler.note_step(oldest.batch, oldest.computed + time.thread_time() - computed)
        return self._commit(oldest.batch, outputs, oldest.began)

    def _run(self, batch: ScheduledBatch) -> list[TokenDelta]:
        """Launches, waits and takes in."""
        began, computed = time.perf_counter(), time.thread_time()
        try:
            outputs = self._runner.launch(batch).collect()
            _check(batch, outputs)
        except DeviceLost:
            raise
        except Exception as error:
            if len(batch.entries) > 1:
                return self._run_halves(batch)
            logger.exception("a step of request %s failed", batch.entries[0].sequence.request_id)
            summary = f"the engine could not execute the step: {type(error).__name__}"
            return self._scheduler.fail(batch, EngineFailure("internal_error", summary))
        except BaseException:  # Ctrl-C in an offline LLM: a caller that goes on finds all schedulable
            self._scheduler.withdraw(batch)
            raise
        self._scheduler.note_step(batch, time.thread_time() - computed)
        return self._commit(batch, outputs, began)

    def _commit(self, batch: ScheduledBatch, outputs: list[StepOutput], began: float) -> list[TokenDelta]:
        """Divides the device's time since its last step among the batch's sequences by tokens, and takes in."""
        now = time.perf_counter()
        num_tokens = batch.num_tokens
        seconds = now - max(began, self._committed_at)
        per_token = seconds / num_tokens
        if self._tiers is not None and batch.reads_prompts:
            self._tiers.note_computed(num_tokens, seconds)
        self._step_tokens.observe(num_tokens)
        self._committed_at = now
        for entry in batch.entries:
            entry.sequence.device_seconds += per_token * entry.num_tokens
        return self._scheduler.commit(batch, outputs)

    def _run_halves(self, batch: ScheduledBatch) -> list[TokenDelta]:
        """Who made the batch fail is found by halving it, so that the others go on as if nothing had happened.

        Sound, because entries of one step do not read each other's KV, and writing one's own again changes nothing.
        """
        middle = len(batch.entries) // 2
        return self._run_live(batch.entries[:middle]) + self._run_live(batch.entries[middle:])

    def _run_live(self, entries: list[Scheduled]) -> list[TokenDelta]:
        """A sequence that failed before took its request's other sequences with it; those that ended are done."""
        live = [entry for entry in entries if entry.is_live]
        return self._run(ScheduledBatch(live, [])) if live else []


def _check(batch: ScheduledBatch, outputs: list[StepOutput]) -> None:
    """A runner that breaks its contract fails this batch, before half of it is committed."""
    if len(outputs) != len(batch.entries):
        raise RuntimeError(f"{len(batch.entries)} entries, {len(outputs)} outputs")
    if any(entry.samples and not output.sampled for entry, output in zip(batch.entries, outputs, strict=True)):
        raise RuntimeError("an entry that samples has no sampled token")
