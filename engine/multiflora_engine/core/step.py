"""What passes between scheduler, runner and sampler in one step. Types only."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from multiflora_engine.core.moved_spans import KvMove
from multiflora_engine.core.sequence import Sequence
from multiflora_engine.protocol.requests import EngineFailure, PositionLogprobs, TokenDelta


class DeviceLost(Exception):
    """The device answers nothing any more, whatever is asked: the engine has to be started anew."""


class Scheduled(NamedTuple):
    """Compute tokens [start, start + num_tokens) of one sequence in this step; decode is num_tokens == 1.

    samples: the last of them is the sequence's last token, so its logits yield the next one. Never for pooling.
    drafts: tokens that perhaps follow the sequence's last one (speculation). They are the last of num_tokens, and each
    yields a further token where all before it turn out to be right.
    epoch: the sequence's epoch when this was scheduled.
    move: KV of the tokens before `start` that is copied first.

    A decode may be scheduled while the step that samples its token is in flight: `start` then is the sequence's
    num_tokens, and only the device knows the token.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool
    epoch: int
    drafts: Items[int] = ()
    move: KvMove | None = None

    @property
    def first(self) -> int:
        """The first token whose KV this writes."""
        return self.start if self.move is None else self.move.start

    @property
    def is_live(self) -> bool:
        """Whether its sequence still runs as it did when this was scheduled."""
        return self.epoch == self.sequence.epoch

    @property
    def slot(self) -> int | None:
        """Of the adapter that computes it; None: the base does."""
        return self.sequence.slot_at(self.start)

    @property
    def num_output_tokens(self) -> int:
        """Length of the output that the first token sampled here is appended to; also when the host does not know all
        of it."""
        return self.num_known - self.sequence.num_prompt_tokens

    @property
    def num_known(self) -> int:
        """Length of the text without drafts, once this is computed."""
        return self.start + self.num_tokens - len(self.drafts)

    @property
    def num_rows(self) -> int:
        """Rows of logits that tokens are sampled from."""
        return 1 + len(self.drafts) if self.samples else 0


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

    @property
    def reads_prompts(self) -> bool:
        """Whether it computes parts of prompts. All other entries are one token and what is drafted behind it."""
        return any(entry.num_tokens > 1 + len(entry.drafts) for entry in self.entries)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The next token of one sequence; logprobs only when `params.logprobs` asks for them.

    failure: no token could be chosen (token_id means nothing then), which ends the request: it is the last of its step.
    """

    token_id: int
    logprobs: PositionLogprobs | None = None
    failure: EngineFailure | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What the runner returns for one entry, in the entries' order."""

    # The sequence's next tokens, in order: the drafts that the model chose as well, then one more of its own; empty
    # exactly when `entry.samples` is not set.
    sampled: list[SampledToken] = field(default_factory=list)
    # When `sequence.needs_prompt_logprobs`: one item for each prompt token that the logits of this chunk predict, at
    # positions start + 1 ... min(start + num_tokens, num_prompt_tokens - 1).
    prompt_logprobs: list[PositionLogprobs] | None = None
    # Of a pooling sequence: [H], the sum of the normed hidden states that pooling asks for among the chunk's.
    pooled: npt.NDArray[np.float32] | None = None


class RunningStep(Protocol):
    """A batch that the device has been given."""

    def choose(self) -> None:
        """Gives the device the choice of tokens, if that had to wait: the batch before has been committed. Raises
        DeviceLost."""
        ...

    def collect(self) -> list[StepOutput]:
        """One output per entry, in the entries' order; waits until the device is done. `choose` comes first where the
        batch was launched before the one before it was committed. Raises DeviceLost."""
        ...

    def drop(self) -> None:
        """In place of `collect`: no outputs are wanted. Raises DeviceLost."""
        ...


class ModelRunner(Protocol):
    """The device side as the engine sees it.

    runs_ahead: whether `launch` returns before the device is done, so that it pays to give it the next batch before the
    outputs of this one are collected. depth: batches that it has before the first of them is collected, at most: 2
    where it runs ahead, more where several stages each compute one. The device executes batches in the order in which
    they are launched, and they are collected or dropped in this order. What of a batch depends on tokens that the host
    must know first (a grammar's mask) waits for `RunningStep.choose`, while the device computes the batch already.
    """

    @property
    def runs_ahead(self) -> bool: ...

    @property
    def depth(self) -> int: ...

    def launch(self, batch: ScheduledBatch) -> RunningStep:
        """Writes the KV of all scheduled tokens and samples. Raises DeviceLost.

        After an exception the engine calls it again with parts of the batch, to find the entry that is to blame.
        """
        ...
