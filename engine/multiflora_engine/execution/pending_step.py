"""A batch that the device works on, and what becomes of it when it is collected. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multiflora_engine.core.step import DeviceLost, StepOutput
from multiflora_engine.core.transfers import Readback
from multiflora_engine.execution.step_plan import StepPlan
from multiflora_engine.protocol.requests import PositionLogprobs
from multiflora_engine.sampling.sampler import PromptLogprobs, SampledStep


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
        sampled = dict(zip(plan.sampling_places, tokens, strict=True))
        pooled = dict(zip(plan.pooled_places, vectors, strict=True))
        return [StepOutput(sampled.get(i), prompts.get(i), pooled.get(i)) for i in range(plan.num_entries)]
