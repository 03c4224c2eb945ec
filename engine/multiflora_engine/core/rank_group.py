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
from torch.distributed import FileStore  # type: ignore[attr-defined]

_PATIENCE = timedelta(days=365)
"""For the others to take part: between requests they wait for the next step, however long. One that dies ends it."""


class RankGroup:
    """This process as one of `size` ranks. Every rank calls the same methods in the same order; those that wait for
    another that has died raise RuntimeError (on a GPU, they wait until the process is ended)."""

    def __init__(self, meeting: str, rank: int, size: int, device: torch.device) -> None:
        """meeting: a file that is not there yet, by which the ranks find each other. Returns when all have; then it is
        needed no more."""
        self.rank = rank
        self.size = size
        self._device = device
        store = FileStore(meeting, size)
        # Ranks are processes of one machine: they listen where no other machine can reach them.
        os.environ.setdefault(
            "NCCL_SOCKET_IFNAME" if device.type == "cuda" else "GLOO_SOCKET_IFNAME",
            "lo0" if sys.platform == "darwin" else "lo",
        )
        if device.type == "cuda":
            options = distributed.ProcessGroupNCCL.Options()
            options._timeout = _PATIENCE
            backend: object = distributed.ProcessGroupNCCL(store, rank, size, options)
        else:
            backend = distributed.ProcessGroupGloo(store, rank, size, timeout=_PATIENCE)
        # A group of our own, not the process's default one; it has the methods that the stubs give to groups alone.
        self._group = cast(distributed.ProcessGroup, backend)
        self.values_of_all(rank)

    def sum_(self, x: torch.Tensor) -> None:
        """x: of one shape on all ranks, contiguous; becomes the sum of all, the same bits everywhere."""
        self._group.allreduce([x]).wait()

    def gather_columns(self, x: torch.Tensor, total: int) -> torch.Tensor:
        """x: [L, C], this rank's of `total` columns in equal parts, of which the last may be narrower. Returns
        [L, total]."""
        share = -(-total // self.size)
        own = torch.nn.functional.pad(x, (0, share - x.shape[1])).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        self._group.allgather([parts], [own]).wait()
        return torch.cat(parts, dim=1)[:, :total]

    def follow_first_(self, x: torch.Tensor) -> None:
        """x: of one shape on all ranks, contiguous; becomes the first rank's."""
        self._group.broadcast([x]).wait()

    def values_of_all(self, value: int) -> list[int]:
        """value: this rank's. In the ranks' order."""
        (row,) = self.gather_columns(torch.tensor([[value]], device=self._device), self.size).tolist()
        return list(map(int, row))
