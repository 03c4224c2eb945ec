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
from multiflora_engine.step import ModelRunner, ScheduledBatch, StepOutput

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
        """Raises QueueFull, RequestTooLong or ValueError; nothing is queued then."""
        self._scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """The request ends without another delta and its memory is free at once."""
        self._scheduler.abort(request_id)

    def step(self) -> list[TokenDelta]:
        """Runs one batch and returns what it added. Never raises for what happens inside the batch."""
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
        try:
            outputs = self._runner.execute(batch)
            _check(batch, outputs)
        except Exception as error:
            logger.exception("a step of %d sequences failed", len(batch.entries))
            summary = f"the engine could not execute the step: {type(error).__name__}"
            return self._scheduler.fail(batch, EngineFailure("internal_error", summary))
        return self._scheduler.commit(batch, outputs)


def _check(batch: ScheduledBatch, outputs: list[StepOutput]) -> None:
    """A runner that breaks its contract fails this batch, before half of it is committed."""
    if len(outputs) != len(batch.entries):
        raise RuntimeError(f"{len(batch.entries)} entries, {len(outputs)} outputs")
    if any(entry.samples and output.sampled is None for entry, output in zip(batch.entries, outputs, strict=True)):
        raise RuntimeError("an entry that samples has no sampled token")
