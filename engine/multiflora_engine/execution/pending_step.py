"""A batch that the device works on, and what becomes of it when it is collected. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from multiflora_engine.core.step import DeviceLost, StepOutput
from multiflora_engine.core.transfers import Readback
from multiflora_engine.protocol.requests import PositionLogprobs
from multiflora_engine.sampling.sampler import PromptLogprobs, SampledStep


@dataclass(frozen=True)
class PendingStep:
    """A batch on the device (the engine's RunningStep). order: place of each output among the batch's entries.

    samples: tokens of the entries at `sampling`. prompt_logprobs: in stretches. pooled: one vector each. All lists are
    in slot order. Everything is on its way to the host: nothing waits for what the device was given since.
    """

    order: list[int]
    sampling: list[int]
    samples: SampledStep | None
    prompt_logprobs: Items[Items[PromptLogprobs] | None]
    pooled: Items[Readback | None]

    def collect(self) -> list[StepOutput]:
        try:
            tokens = self.samples.collect() if self.samples is not None else []
            prompts = [None if parts is None else _joined(parts) for parts in self.prompt_logprobs]
            pooled = [None if vector is None else vector.wait()[0].numpy() for vector in self.pooled]
        except torch.AcceleratorError as error:
            raise DeviceLost(str(error)) from error
        sampled = dict(zip(self.sampling, tokens, strict=True))
        outputs: list[StepOutput] = [StepOutput()] * len(self.order)
        for i, place in enumerate(self.order):
            outputs[place] = StepOutput(sampled.get(i), prompts[i], pooled[i])
        return outputs


def _joined(parts: Items[PromptLogprobs]) -> list[PositionLogprobs]:
    return [position for part in parts for position in part.collect()]
