"""Processes that compute one model together, each a part of every layer (tensor parallelism), and what they exchange.

Knows tensors, neither models nor who starts the processes.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import cast

import torch
from torch import distributed
from torch.distributed import FileStore, PrefixStore  # type: ignore[attr-defined]

_PATIENCE = timedelta(days=365)
"""For the others to take part: between requests they wait for the next step, however long. One that dies ends it."""


class GroupBroken(RuntimeError):
    """Another rank does not take part any more. Why, only that rank could tell."""


class RankGroup:
    """This process as one of `size` ranks. Every rank calls the same methods in the same order; those that wait for
    another that has ended raise GroupBroken (on a GPU, they wait until this process is ended, too)."""

    def __init__(self, meeting: str, rank: int, size: int, device: torch.device) -> None:
        """meeting: a file that is not there yet, by which the ranks find each other. Returns when all have; then it is
        needed no more."""
        self.rank = rank
        self.size = size
        store = FileStore(meeting, size)
        # Ranks are processes of one machine: they listen where no other machine can reach them.
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        # Groups of our own, not the process's default one; they have the methods that the stubs give to that alone.
        backend: object = distributed.ProcessGroupGloo(PrefixStore("host", store), rank, size, timeout=_PATIENCE)
        self._of_host = self._of_device = cast(distributed.ProcessGroup, backend)
        if device.type == "cuda":
            options = distributed.ProcessGroupNCCL.Options()
            options._timeout = _PATIENCE
            backend = distributed.ProcessGroupNCCL(PrefixStore("device", store), rank, size, options)
            self._of_device = cast(distributed.ProcessGroup, backend)
        self.sum_(torch.zeros(1, device=device))

    def sum_(self, x: torch.Tensor) -> None:
        """x: of one shape on all ranks, contiguous; becomes the sum of all, the same bits everywhere."""
        self._wait(self._of_device.allreduce([x]))

    def gather_columns(self, x: torch.Tensor, total: int) -> torch.Tensor:
        """x: [L, C], this rank's of `total` columns in equal parts, of which the last may be narrower. Returns
        [L, total]."""
        share = -(-total // self.size)
        own = torch.nn.functional.pad(x, (0, share - x.shape[1])).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        self._wait(self._of_device.allgather([parts], [own]))
        return torch.cat(parts, dim=1)[:, :total]

    def follow_first_(self, x: torch.Tensor) -> None:
        """x: of one shape on all ranks, contiguous; becomes the first rank's."""
        self._wait(self._of_device.broadcast([x]))

    def values_of_all(self, value: int) -> list[int]:
        """value: this rank's. In the ranks' order."""
        found = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        self._wait(self._of_host.allgather([found], [torch.tensor([value])]))
        return [int(one) for one in found]

    @staticmethod
    def _wait(work: distributed.Work) -> None:
        try:
            work.wait()
        except RuntimeError as error:
            raise GroupBroken(str(error)) from error
