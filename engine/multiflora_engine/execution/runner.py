"""Runs scheduled batches: plans on the host, executes on the device, samples. Knows nothing of queues or text."""

from __future__ import annotations

import torch

from multiflora_engine.core.step import DeviceLost, ScheduledBatch
from multiflora_engine.execution.executor import StepExecutor
from multiflora_engine.execution.pending_step import PendingStep
from multiflora_engine.execution.step_plan import StepPlanner
from multiflora_engine.sampling.sampler import SampledStep, Sampler


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
