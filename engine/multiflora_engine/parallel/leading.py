"""What the first rank's engine uses in place of its own executor, dummy pass and pool: the same, on all ranks.

Each call is told to the others before this rank does it, so that all do the same in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.slots import SlotPool, SlotUpload
from multiflora_adapters.weights import HostAdapter
from multiflora_engine.core.rank_group import GroupBroken
from multiflora_engine.core.step import DeviceLost
from multiflora_engine.execution.device_side import DeviceSide
from multiflora_engine.execution.dummy_batch import Dummy
from multiflora_engine.execution.executor import BegunStep, StepExecutor, StepResults
from multiflora_engine.execution.runner import Feedback
from multiflora_engine.execution.step_arrays import StepArrays
from multiflora_engine.offload.offloading import Offloading
from multiflora_engine.parallel.launch import Ranks
from multiflora_engine.parallel.line import RankLine, RankLost
from multiflora_engine.parallel.messages import (
    AttachAdapter,
    CopyAdapter,
    FinishStep,
    FollowTokens,
    PlaceAdapter,
    RemoveAdapter,
    RunDummy,
    RunStep,
)
from multiflora_engine.parallel.shared_copies import SharedCopies
from multiflora_engine.parallel.shared_loads import LoadPart, SharedLoads


class Leader:
    """The first rank's part in the group. loads: brings adapters to all ranks' host memory."""

    def __init__(self, ranks: Ranks, part: BaseModel, load: LoadPart) -> None:
        """part: what this rank has of the base; load: of an adapter."""
        self.grid = ranks.grid
        self._part = part
        self.loads = SharedLoads(load, ranks.line, ranks.grid.place.shard.size)
        self._line = ranks.line

    def pool(self, *pool: Any) -> SlotPool:
        """As `SlotPool` of this rank's part, of all ranks."""
        return LeadingPool(self._line, self.loads.serial_of, self._part, *pool)

    def side(self, own: DeviceSide) -> DeviceSide:
        """This rank's device, and those of all others with it."""
        runner = own.runner.with_executor(LeadingExecutor(own.executor, self._line))
        return replace(own, runner=runner, dummy=LeadingDummyPass(own.dummy, self._line))

    def copies(self, own: Offloading) -> SharedCopies:
        """This rank's copies of KV blocks, and those of all others with them; all call this at once."""
        return SharedCopies(own, self._line, sum(self.grid.values_of_all(own.block_bytes)))

    def check(self) -> None:
        """Raises RankLost when a rank has ended."""
        self._line.check()

    def close(self) -> None:
        """The other ranks end."""
        self._line.close()


class LeadingExecutor:
    """An `Executor` of all ranks."""

    def __init__(self, own: StepExecutor, line: RankLine) -> None:
        self.feedback = LeadingFeedback(own.feedback, line)
        self._own = own
        self._line = line

    def begin(self, arrays: StepArrays) -> BegunStep:
        """Raises DeviceLost for what goes wrong once the others know of the step, because then ranks do not do the same
        any more; what goes wrong before, with the batch itself, is its requests' own."""
        batch = self._own.build(arrays)
        self._line.send(RunStep(arrays))
        with _together(self._line):
            return self._own.begin_built(arrays, batch)

    def finish(self, step: BegunStep) -> StepResults:
        """Raises DeviceLost for whatever goes wrong."""
        self._line.send(FinishStep())
        with _together(self._line):
            return self._own.finish(step)


class LeadingFeedback:
    """A `Feedback` of all ranks, which are told of it apart from the step: that may be all that fails, in sampling."""

    def __init__(self, own: Feedback, line: RankLine) -> None:
        self._own = own
        self._line = line

    def keep(self, tokens: torch.Tensor) -> None:
        """See `TokenFeedback`. Raises DeviceLost."""
        self._line.send(FollowTokens(len(tokens)))
        with _together(self._line):
            self._own.keep(tokens)


class LeadingDummyPass:
    """A `Dummy` of all ranks."""

    def __init__(self, own: Dummy, line: RankLine) -> None:
        self.dtype = own.dtype
        self._own = own
        self._line = line

    def logits(self, slots: list[int | None], tokens: int) -> torch.Tensor:
        """See `DummyPass`. Raises DeviceLost."""
        self._line.send(RunDummy(slots, tokens))
        with _together(self._line):
            return self._own.logits(slots, tokens)


@contextmanager
def _together(line: RankLine) -> Iterator[None]:
    try:
        yield
    except GroupBroken as error:
        raise (line.first_loss() or RankLost(str(error))) from error
    except DeviceLost:
        raise
    except Exception as error:
        raise RankLost(f"The first rank failed in a step of all: {type(error).__name__}: {error}") from error


class LeadingUpload(SlotUpload):
    """A copy that is complete when all ranks have made theirs."""

    def __init__(self, own: SlotUpload, line: RankLine) -> None:
        self.slot = own.slot
        self._own = own
        self._line = line

    def step(self, max_bytes: int) -> tuple[int, bool]:
        """See `SlotUpload`. Raises DeviceLost."""
        self._line.send(CopyAdapter(self.slot, max_bytes))
        copied, is_complete = self._own.step(max_bytes)
        if is_complete:
            self._line.send(AttachAdapter(self.slot))
        return copied, is_complete


class LeadingPool(SlotPool):
    """serial_of: an adapter's digest -> the number of the load that brought it to all ranks' host memory. The rest as
    of `SlotPool`."""

    def __init__(self, line: RankLine, serial_of: Callable[[str], int], *pool: Any) -> None:
        super().__init__(*pool)
        self._line = line
        self._serial_of = serial_of

    def begin(self, host: HostAdapter, *, at_end: bool = False) -> SlotUpload | None:
        """See `SlotPool`: what fits on this rank fits on all, which have the same slots and rows. Raises DeviceLost."""
        upload = super().begin(host, at_end=at_end)
        if upload is None:
            return None
        self._line.send(PlaceAdapter(self._serial_of(host.digest), upload.slot, at_end))
        return LeadingUpload(upload, self._line)

    def remove(self, slot: int) -> None:
        """See `SlotPool`. Raises DeviceLost."""
        self._line.send(RemoveAdapter(slot))
        super().remove(slot)
