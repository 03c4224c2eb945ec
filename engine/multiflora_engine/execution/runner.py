"""Runs scheduled batches: plans on the host, executes on the device, samples, and collects what came out.

Knows nothing of queues or text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multiflora_engine.core.step import DeviceLost, ScheduledBatch, StepOutput
from multiflora_engine.core.transfers import Readback
from multiflora_engine.execution.executor import StepExecutor
from multiflora_engine.execution.step_plan import StepPlan, StepPlanner
from multiflora_engine.protocol.requests import PositionLogprobs
from multiflora_engine.sampling.sampler import PromptLogprobs, SampledStep, Sampler


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A batch on the device (the engine's RunningStep). Filled by the device runner.

    Everything is on its way to the host: `collect` waits for nothing that the device was given since.
    """

    plan: StepPlan
    samples: SampledStep | None
    """Tokens of the plan's sampling entries; None when there are none."""
    prompts: list[PromptLogprobs]
    """One for each prompt slice of the plan."""
    pooled: list[Readback]
    """One vector for each sequence of the plan that pools."""

    def collect(self) -> list[StepOutput]:
        plan = self.plan
        prompts: dict[int, list[PositionLogprobs]] = {place: [] for place in plan.scored_places}
        try:
            tokens = self.samples.collect() if self.samples is not None else []
            for place, part in zip(plan.prompt_places, self.prompts, strict=True):
                prompts[place] += part.collect()
            vectors = [vector.wait()[0].numpy() for vector in self.pooled]
        except torch.AcceleratorError as error:
            raise DeviceLost(str(error)) from error
        sampled = {place: [token] for place, token in zip(plan.sampling_places, tokens, strict=True)}
        pooled = dict(zip(plan.pooled_places, vectors, strict=True))
        return [StepOutput(sampled.get(i, []), prompts.get(i), pooled.get(i)) for i in range(plan.num_entries)]


class DeviceRunner:
    """One model on one device (the engine's ModelRunner). runs_ahead: see there."""

    def __init__(self, planner: StepPlanner, executor: StepExecutor, sampler: Sampler, *, runs_ahead: bool) -> None:
        self.runs_ahead = runs_ahead
        self._planner = planner
        self.executor = executor
        self._sampler = sampler

    @torch.inference_mode()
    def launch(self, batch: ScheduledBatch) -> PendingStep:
        """Writes the KV of all scheduled tokens and samples. Raises DeviceLost."""
        plan = self._planner.plan(batch.entries)
        sequences = [entry.sequence for entry in plan.sampling]
        # Grammars' masks are computed beside the forward pass and wanted behind it.
        self._sampler.prepare(sequences)
        try:
            results = self.executor.execute(plan.arrays)
            samples: SampledStep | None = None
            if results.logits is not None:
                lengths = [entry.num_output_tokens for entry in plan.sampling]
                samples = self._sampler.launch(results.logits, sequences, lengths)
                if self.runs_ahead:
                    self.executor.feedback.keep(samples.tokens)
                    self._planner.keep(plan)
        except torch.AcceleratorError as error:
            raise DeviceLost(str(error)) from error
        return PendingStep(plan, samples, results.prompts, results.pooled)
