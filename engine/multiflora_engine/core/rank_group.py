"""Processes that compute one model together, and what they exchange: those of a stage, which each have a part of its
layers (tensor parallelism), and stages, which have some layers each (pipeline parallelism).

Knows tensors, neither models nor who starts the processes.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import cast

import torch
from torch import distributed
from torch.distributed import FileStore, PrefixStore  # type: ignore[attr-defined]

from multiflora_engine.core.shard import RankPlace

_PATIENCE = timedelta(days=365)
"""For the others to take part: between requests they wait for the next step, however long. One that dies ends it."""

_BETWEEN_SIGNS = 0.5
"""Seconds for which a stage is waited for before the caller may say that it does so."""


class GroupBroken(RuntimeError):
    """Another rank does not take part any more. Why, only that rank could tell."""


class RankGrid:
    """This process as one of all ranks. shards: with those of its stage; None: it is alone there. stages: with those
    that have the same part of the other stages; None: there is one stage.

    Every rank calls the same methods in the same order; those that wait for another that has ended raise GroupBroken
    (on a GPU, they wait until this process is ended, too).
    """

    def __init__(self, meeting: str, place: RankPlace, device: torch.device) -> None:
        """meeting: a file that is not there yet, by which the ranks find each other. Returns when all have; then it is
        needed no more."""
        self.place = place
        store = FileStore(meeting, place.num_ranks)
        # Ranks are processes of one machine: they listen where no other machine can reach them.
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        self._of_host = _gloo(PrefixStore("host", store), place.rank, place.num_ranks)
        self.shards = self.stages = None
        if place.shard.size > 1:
            own = PrefixStore(f"stage-{place.stage.number}", store)
            self.shards = RankGroup(_backend(own, place.shard.rank, place.shard.size, device), place, device)
        if place.stage.count > 1:
            self.stages = StageRing(
                _backend(PrefixStore("stages", store), place.rank, place.num_ranks, device), place, device
            )
        self.values_of_all(place.rank)  # no rank is on its way to the meeting any more

    def values_of_all(self, value: int) -> list[int]:
        """value: this rank's. In the ranks' order."""
        found = [torch.empty(1, dtype=torch.int64) for _ in range(self.place.num_ranks)]
        _finish(self._of_host.allgather([found], [torch.tensor([value])]))
        return [int(one) for one in found]

    def of_stages(self, value: int) -> list[list[int]]:
        """value: this rank's. Those of each stage's ranks."""
        values, size = self.values_of_all(value), self.place.shard.size
        return [values[first : first + size] for first in range(0, len(values), size)]


class RankGroup:
    """Ranks that each have a part of the same layers; `RankGrid` makes it."""

    def __init__(self, group: distributed.ProcessGroup, place: RankPlace, device: torch.device) -> None:
        self.rank = place.shard.rank
        self.size = place.shard.size
        self._group = group
        self.sum_(torch.zeros(1, device=device))

    def sum_(self, x: torch.Tensor) -> None:
        """x: of one shape on all ranks, contiguous; becomes the sum of all, the same bits everywhere."""
        _finish(self._group.allreduce([x]))

    def gather_columns(self, x: torch.Tensor, total: int) -> torch.Tensor:
        """x: [L, C], this rank's of `total` columns in equal parts, of which the last may be narrower. Returns
        [L, total]."""
        share = -(-total // self.size)
        own = torch.nn.functional.pad(x, (0, share - x.shape[1])).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        _finish(self._group.allgather([parts], [own]))
        return torch.cat(parts, dim=1)[:, :total]

    def follow_first_(self, x: torch.Tensor) -> None:
        """x: of one shape on all ranks, contiguous; becomes the first rank's."""
        _finish(self._group.broadcast([x]))


class Incoming:
    """A tensor that the stage before sends, or will send."""

    def __init__(self, x: torch.Tensor, work: distributed.Work, waiter: ThreadPoolExecutor | None) -> None:
        """waiter: its thread waits, so that the caller need not do nothing else; None: on a GPU, where steps wait."""
        self._x = x
        self._work = work
        self._arrival = None if waiter is None else waiter.submit(_finish, work)

    def wait(self, meanwhile: Callable[[], None]) -> torch.Tensor:
        """meanwhile: called now and then."""
        if self._arrival is None:
            _finish(self._work)
            return self._x
        while not wait([self._arrival], _BETWEEN_SIGNS).done:
            meanwhile()
        self._arrival.result()
        return self._x


class StageRing:
    """Stages one after the other, and the first one behind the last; `RankGrid` makes it.

    As many steps may be under way as there are stages: nothing that is sent is waited for, but what was sent so many
    steps ago.
    """

    def __init__(self, group: distributed.ProcessGroup, place: RankPlace, device: torch.device) -> None:
        self._group = group
        self._device = device
        number, self._count = place.stage.number, place.stage.count
        self._next, self._previous = (
            place.rank_of_stage((number + step) % self._count) for step in (1, self._count - 1)
        )
        self._sent: deque[tuple[distributed.Work, torch.Tensor]] = deque()
        self._waiter = ThreadPoolExecutor(1, "stages") if device.type == "cpu" else None
        # As a step goes: of two that send first, neither would receive.
        if place.stage.is_first:
            self.send(torch.zeros(1, device=device))
        arrived = self.receive((1,), torch.float32).wait(lambda: None)
        if not place.stage.is_first:
            self.send(arrived)

    def send(self, x: torch.Tensor) -> None:
        """To the next stage; from the last one to the first."""
        x = x.contiguous()
        self._sent.append((self._group.send([x], self._next, 0), x))
        if len(self._sent) > self._count:
            _finish(self._sent.popleft()[0])

    def receive(self, shape: tuple[int, ...], dtype: torch.dtype) -> Incoming:
        """What the stage before sends, in the order in which it is asked for here and sent there."""
        x = torch.empty(shape, dtype=dtype, device=self._device)
        return Incoming(x, self._group.recv([x], self._previous, 0), self._waiter)


def _backend(store: PrefixStore, rank: int, size: int, device: torch.device) -> distributed.ProcessGroup:
    """On the device's own library."""
    if device.type != "cuda":
        return _gloo(store, rank, size)
    options = distributed.ProcessGroupNCCL.Options()
    options._timeout = _PATIENCE
    return _group(distributed.ProcessGroupNCCL(store, rank, size, options))


def _gloo(store: PrefixStore, rank: int, size: int) -> distributed.ProcessGroup:
    return _group(distributed.ProcessGroupGloo(store, rank, size, timeout=_PATIENCE))


def _group(backend: object) -> distributed.ProcessGroup:
    """Groups of our own, not the process's default one; they have the methods that the stubs give to that alone."""
    return cast(distributed.ProcessGroup, backend)


def _finish(work: distributed.Work) -> None:
    try:
        work.wait()
    except RuntimeError as error:
        raise GroupBroken(str(error)) from error
