"""Runs scheduled batches: plans on the host, executes on the device, samples, and collects what came out.

Knows nothing of queues or text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from typing import Protocol

import torch

from multiflora_engine.core.step import DeviceLost, SampledToken, ScheduledBatch, StepOutput
from multiflora_engine.core.transfers import Readback
from multiflora_engine.execution.executor import BegunStep, StepResults
from multiflora_engine.execution.step_arrays import StepArrays
from multiflora_engine.execution.step_plan import StepPlan, StepPlanner
from multiflora_engine.protocol.requests import PositionLogprobs
from multiflora_engine.sampling.sampler import PromptLogprobs, SampledStep, Sampler


@dataclass(slots=True)
class PendingStep:
    """A batch on the device (the engine's RunningStep). Filled by the device runner.

    Everything is on its way to the host once tokens are chosen: `collect` waits for nothing that the device was given
    since.
    """

    plan: StepPlan
    prompts: list[PromptLogprobs]
    """One for each prompt slice of the plan."""
    pooled: list[Readback]
    """One vector for each sequence of the plan that pools."""
    sample: Callable[[], SampledStep] | None
    """Gives the device the choice of tokens; None once that is done, or where no entry samples."""
    samples: SampledStep | None = None
    """Tokens of the plan's sampling entries; None when there are none."""

    def choose(self) -> None:
        if self.sample is not None:
            with _loss_of_device():
                self.samples, self.sample = self.sample(), None

    def collect(self) -> list[StepOutput]:
        assert self.sample is None, "the engine commits the batch before, and then has this one's tokens chosen"
        plan = self.plan
        prompts: dict[int, list[PositionLogprobs]] = {place: [] for place in plan.scored_places}
        with _loss_of_device():
            tokens = self.samples.collect() if self.samples is not None else []
            for place, part in zip(plan.prompt_places, self.prompts, strict=True):
                prompts[place] += part.collect()
            vectors = [vector.wait()[0].numpy() for vector in self.pooled]
        rows = iter(tokens)
        sampled = {
            place: verified(list(islice(rows, entry.num_rows)), entry.drafts)
            for place, entry in zip(plan.sampling_places, plan.sampling, strict=True)
        }
        pooled = dict(zip(plan.pooled_places, vectors, strict=True))
        return [StepOutput(sampled.get(i, []), prompts.get(i), pooled.get(i)) for i in range(plan.num_entries)]

    def drop(self) -> None:
        """Nothing is to come that would have to be received."""


@contextmanager
def _loss_of_device() -> Iterator[None]:
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLost(str(error)) from error


def verified(tokens: list[SampledToken], drafts: Items[int]) -> list[SampledToken]:
    """The leading tokens that stand: each was sampled behind drafts which are what was sampled there.

    tokens: one more than drafts; tokens[i] is the model's choice behind the first i of them.
    """
    kept: list[SampledToken] = []
    for token, draft in zip_longest(tokens, drafts):
        if token.failure is not None and kept:
            break  # the text may end before; if not, the next step fails by itself
        kept.append(token)
        if token.failure is not None or token.token_id != draft:
            break
    return kept


class Feedback(Protocol):
    """`TokenFeedback`, as the runner uses it."""

    def keep(self, tokens: torch.Tensor) -> None: ...


class Executor(Protocol):
    """`StepExecutor`, as the runner uses it."""

    @property
    def feedback(self) -> Feedback: ...

    def begin(self, arrays: StepArrays) -> BegunStep: ...

    def finish(self, step: BegunStep) -> StepResults: ...


class DeviceRunner:
    """One model on one device, or on one for each rank (the engine's ModelRunner). runs_ahead: see there."""

    def __init__(
        self, planner: StepPlanner, executor: Executor, sampler: Sampler, *, runs_ahead: bool, num_stages: int = 1
    ) -> None:
        """num_stages: that compute one after the other, each a batch at a time."""
        self.runs_ahead = runs_ahead
        self.depth = max(2 if runs_ahead else 1, num_stages)
        self._num_stages = num_stages
        self._planner = planner
        self.executor = executor
        self._sampler = sampler

    def with_executor(self, executor: Executor) -> DeviceRunner:
        """The same on what else executes arrays."""
        return DeviceRunner(
            self._planner, executor, self._sampler, runs_ahead=self.runs_ahead, num_stages=self._num_stages
        )

    @torch.inference_mode()
    def launch(self, batch: ScheduledBatch) -> PendingStep | BegunBatch:
        """Writes the KV of all scheduled tokens and samples. Raises DeviceLost."""
        plan = self._planner.plan(batch.entries)
        if self._num_stages > 1:
            with _loss_of_device():
                return BegunBatch(self, plan, self.executor.begin(plan.arrays))
        waits = self.runs_ahead and any(
            self._sampler.waits(entry.sequence, entry.num_output_tokens) for entry in plan.sampling
        )
        if not waits:
            self.prepare(plan)
        with _loss_of_device():
            results = self.executor.finish(self.executor.begin(plan.arrays))
        step = self.pending(plan, results)
        if not waits:
            step.choose()
        return step

    def prepare(self, plan: StepPlan) -> None:
        """Grammars' masks are computed beside the forward pass and wanted behind it; of one batch at a time."""
        self._sampler.prepare([entry.sequence for entry in plan.sampling])

    def receive(self, begun: BegunStep) -> StepResults:
        """Waits for the other stages. Raises DeviceLost."""
        with _loss_of_device():
            return self.executor.finish(begun)

    def pending(self, plan: StepPlan, results: StepResults) -> PendingStep:
        sample = None if results.logits is None else partial(self._sample, plan, results.logits)
        return PendingStep(plan, results.prompts, results.pooled, sample)

    @torch.inference_mode()
    def _sample(self, plan: StepPlan, logits: torch.Tensor) -> SampledStep:
        rows = [(entry, row) for entry in plan.sampling for row in range(entry.num_rows)]
        samples = self._sampler.launch(
            logits, [entry.sequence for entry, _ in rows], [entry.num_output_tokens + row for entry, row in rows]
        )
        if self.runs_ahead:
            self.executor.feedback.keep(samples.tokens)
            self._planner.keep(plan)
        return samples


class BegunBatch:
    """A batch on its way through the stages (the engine's RunningStep): sampled when it has come back."""

    def __init__(self, runner: DeviceRunner, plan: StepPlan, begun: BegunStep) -> None:
        self._runner = runner
        self._plan = plan
        self._begun = begun

    def choose(self) -> None:
        """`collect` does so, because only then there are logits."""

    @torch.inference_mode()
    def collect(self) -> list[StepOutput]:
        """Raises DeviceLost."""
        try:
            self._runner.prepare(self._plan)
        finally:
            # Whatever becomes of this batch: the next one's results come behind its own.
            results = self._runner.receive(self._begun)
        step = self._runner.pending(self._plan, results)
        step.choose()
        return step.collect()

    @torch.inference_mode()
    def drop(self) -> None:
        self._runner.receive(self._begun)
