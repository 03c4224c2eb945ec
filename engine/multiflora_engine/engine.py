"""The step loop's body: adapters move, a batch is scheduled, executed and committed. One step is one call.

Knows neither what a model is nor who asks: the process that owns it moves requests in and deltas out.
"""

from __future__ import annotations

import logging
import time
from typing import Protocol

from msgspec.structs import replace

from multiflora_engine.adapter_source import AdapterSource
from multiflora_engine.protocol import EngineStats
from multiflora_engine.request import EngineFailure, GenerateRequest, TokenDelta
from multiflora_engine.scheduler import Scheduler
from multiflora_engine.step import DeviceLost, ModelRunner, ScheduledBatch, StepOutput

logger = logging.getLogger(__name__)


class Residency(AdapterSource, Protocol):
    """The adapter source with the parts that only the step loop needs."""

    loads: int
    evictions: int

    def poll(self) -> None:
        """Takes in finished loads and copies a bounded amount to the device."""
        ...


class Engine:
    """Scheduler, runner and adapters behind one `step`. Single-threaded: call everything from the step loop."""

    def __init__(self, runner: ModelRunner, scheduler: Scheduler, residency: Residency) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._residency = residency
        self._steps = 0
        self._step_seconds = 0.0
        self._is_stalled = False

    @property
    def has_work(self) -> bool:
        """Whether any request has not ended yet."""
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

    def step(self) -> list[TokenDelta]:
        """Runs one batch and returns what it added. What goes wrong with a request inside the batch fails that request
        alone; raises DeviceLost."""
        began = time.perf_counter()
        self._residency.poll()
        batch = self._scheduler.schedule()
        self._is_stalled = not batch.entries
        if self._is_stalled:
            return batch.failures
        deltas = batch.failures + self._run(batch)
        self._steps += 1
        self._step_seconds += time.perf_counter() - began
        return deltas

    def stats(self) -> EngineStats:
        return replace(
            self._scheduler.stats(),
            steps=self._steps,
            step_seconds=self._step_seconds,
            adapter_loads=self._residency.loads,
            adapter_evictions=self._residency.evictions,
        )

    def _run(self, batch: ScheduledBatch) -> list[TokenDelta]:
        began = time.perf_counter()
        try:
            outputs = self._runner.execute(batch)
            _check(batch, outputs)
        except DeviceLost:
            raise
        except Exception as error:
            if len(batch.entries) > 1:
                return self._run_halves(batch)
            logger.exception("a step of request %s failed", batch.entries[0].sequence.request_id)
            summary = f"the engine could not execute the step: {type(error).__name__}"
            return self._scheduler.fail(batch, EngineFailure("internal_error", summary))
        except BaseException:  # Ctrl-C in an offline LLM: whoever goes on finds everything schedulable
            self._scheduler.withdraw(batch)
            raise
        _charge(batch, time.perf_counter() - began)
        return self._scheduler.commit(batch, outputs)

    def _run_halves(self, batch: ScheduledBatch) -> list[TokenDelta]:
        """Who made the batch fail is found by halving it, so that the others go on as if nothing had happened.

        Sound, because entries of one step do not read each other's KV, and writing one's own again changes nothing.
        """
        deltas: list[TokenDelta] = []
        middle = len(batch.entries) // 2
        for half in (batch.entries[:middle], batch.entries[middle:]):
            # A sequence that failed in the first half took its request's other sequences with it.
            live = [entry for entry in half if entry.epoch == entry.sequence.epoch]
            if live:
                deltas += self._run(ScheduledBatch(live, []))
        return deltas


def _charge(batch: ScheduledBatch, seconds: float) -> None:
    """Divides the step's time among its sequences by tokens."""
    per_token = seconds / batch.num_tokens
    for entry in batch.entries:
        entry.sequence.device_seconds += per_token * entry.num_tokens


def _check(batch: ScheduledBatch, outputs: list[StepOutput]) -> None:
    """A runner that breaks its contract fails this batch, before half of it is committed."""
    if len(outputs) != len(batch.entries):
        raise RuntimeError(f"{len(batch.entries)} entries, {len(outputs)} outputs")
    if any(entry.samples and output.sampled is None for entry, output in zip(batch.entries, outputs, strict=True)):
        raise RuntimeError("an entry that samples has no sampled token")
