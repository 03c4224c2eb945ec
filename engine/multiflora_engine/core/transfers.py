"""Small arrays on their way to the device and back, without the host waiting for the device or the device for the host.

Knows bytes only. On a CPU nothing is pinned and every copy is done when the call returns.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

ALIGNMENT = 16
"""Bytes; each array of an upload starts at a multiple."""

_STAGES = 8
"""Copies that may be under way at the same time; one more waits for the oldest. More than a step makes, or the host
would wait for the step before."""

_FIRST_BYTES = 64 << 10

Array = npt.NDArray[Any]


class _Stage:
    """Pinned memory, and the event after which it may be written again."""

    def __init__(self, num_bytes: int, pinned: bool) -> None:
        self.memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pinned)
        self.copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]


class Staging:
    """Packs arrays into one buffer and copies it to the device at once, in the order of the current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = device.type == "cuda"
        self._stages = [_Stage(_FIRST_BYTES, self._pinned) for _ in range(_STAGES)]
        self._turn = 0

    @property
    def is_on_host(self) -> bool:
        """Whether the device is the host, so that nothing has to be sent."""
        return self._device.type == "cpu"

    def upload_one(self, array: Array) -> torch.Tensor:
        (tensor,) = self.upload([array])
        return tensor

    def upload(self, arrays: Sequence[Array], target: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The arrays on the device, as views of `target` (uint8, large enough), or of memory of their own.

        Equal shapes and types always lie at the same places of a target, so that a graph finds them there.
        """
        sizes = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays]
        offsets = list(accumulate(sizes, initial=0))
        stage = self._next_stage(offsets[-1])
        host = stage.memory.numpy()
        for array, offset in zip(arrays, offsets, strict=False):
            host[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if target is None:
            target = torch.empty(offsets[-1], dtype=torch.uint8, device=self._device)
        target[: offsets[-1]].copy_(stage.memory[: offsets[-1]], non_blocking=True)
        if stage.copied is not None:
            stage.copied.record()
        tensors: list[torch.Tensor] = []
        for array, offset in zip(arrays, offsets, strict=False):
            content = target[offset : offset + array.nbytes]
            tensors.append(content.view(_torch_dtype(array.dtype)).view(array.shape))
        return tensors

    def _next_stage(self, num_bytes: int) -> _Stage:
        stage = self._stages[self._turn]
        if stage.copied is not None:
            stage.copied.synchronize()
        if len(stage.memory) < num_bytes:
            stage = self._stages[self._turn] = _Stage(2 * num_bytes, self._pinned)
        self._turn = (self._turn + 1) % _STAGES
        return stage


@functools.cache
def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


class Readback:
    """Device tensors on their way to the host; `wait` ends when they are there, whatever the device was given since."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        """Starts the copies, behind all that the current stream has been given."""
        self._host = [_to_host(tensor) for tensor in tensors]
        self._arrived = None
        if any(tensor.is_cuda for tensor in tensors):
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def wait(self) -> list[torch.Tensor]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
