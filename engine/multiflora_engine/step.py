"""What passes between scheduler, runner and sampler in one step. Types only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from multiflora_engine.request import EngineFailure, PositionLogprobs, TokenDelta
from multiflora_engine.sequence import Sequence


class DeviceLost(Exception):
    """The device answers nothing any more, whatever is asked: the engine has to be started anew."""


class Scheduled(NamedTuple):
    """Compute tokens [start, start + num_tokens) of one sequence in this step; decode is num_tokens == 1.

    samples: the last of them is the sequence's last known token, so its logits yield the next one. Never for pooling.
    epoch: the sequence's epoch when this was scheduled.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """One step's work: each sequence at most once, running decodes first.

    failures: last words of requests that ended while scheduling (deadline passed, adapter unavailable).
    """

    entries: list[Scheduled]
    failures: list[TokenDelta]

    @property
    def num_tokens(self) -> int:
        return sum(entry.num_tokens for entry in self.entries)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The next token of one sequence; logprobs only when `params.logprobs` asks for them.

    failure: no token could be chosen (token_id means nothing then), which ends the request.
    """

    token_id: int
    logprobs: PositionLogprobs | None = None
    failure: EngineFailure | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What the runner returns for one entry, in the entries' order.

    sampled: set exactly when `entry.samples`.
    prompt_logprobs: when `sequence.needs_prompt_logprobs`, one item for each prompt token at positions
        start + 1 ... min(start + num_tokens, num_prompt_tokens - 1), that is, for each prompt token that the logits
        of this chunk predict.
    pooled: of a pooling sequence, [H] the sum of the normed hidden states that pooling asks for among the chunk's.
    """

    sampled: SampledToken | None = None
    prompt_logprobs: list[PositionLogprobs] | None = None
    pooled: npt.NDArray[np.float32] | None = None


class ModelRunner(Protocol):
    """The device side as the engine sees it."""

    def execute(self, batch: ScheduledBatch) -> list[StepOutput]:
        """Writes the KV of all scheduled tokens and returns one output per entry, in the same order.

        After an exception the engine calls it again with parts of the batch, to find the entry that is to blame.
        """
        ...
