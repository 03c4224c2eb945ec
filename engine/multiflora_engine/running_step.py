"""A batch that the device works on, and what becomes of it when it is collected. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

import torch

from multiflora_engine.request import PositionLogprobs
from multiflora_engine.step import DeviceLost, SampledToken, StepOutput


class Samples(Protocol):
    """One step's tokens on their way from the device; see sampler.py."""

    @property
    def tokens(self) -> torch.Tensor: ...

    def collect(self) -> list[SampledToken]: ...


@dataclass(frozen=True)
class RunningStep:
    """A batch on the device (the engine's RunningStep). order: place of each output among the batch's entries.

    samples: tokens of the entries at `sampling`. All lists are in slot order.
    """

    order: list[int]
    sampling: list[int]
    samples: Samples | None
    prompt_logprobs: Items[list[PositionLogprobs] | None]
    pooled: Items[torch.Tensor | None]

    def collect(self) -> list[StepOutput]:
        try:
            tokens = self.samples.collect() if self.samples is not None else []
            pooled = [None if vector is None else vector.cpu().numpy() for vector in self.pooled]
        except torch.AcceleratorError as error:
            raise DeviceLost(str(error)) from error
        sampled = dict(zip(self.sampling, tokens, strict=True))
        outputs: list[StepOutput] = [StepOutput()] * len(self.order)
        for i, place in enumerate(self.order):
            outputs[place] = StepOutput(sampled.get(i), self.prompt_logprobs[i], pooled[i])
        return outputs
