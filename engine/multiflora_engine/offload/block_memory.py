"""One KV block's bytes, out of the device's memory and into it. Knows neither hashes nor tiers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.offload.tier import PART_BYTES, Pace


class BlockMemory(Protocol):
    """All layers' pieces of a block, one after the other, through one buffer. One thread copies."""

    @property
    def block_bytes(self) -> int: ...

    @property
    def buffer(self) -> memoryview:
        """[block_bytes], on the host: what `copy_out` fills and `copy_in` reads."""
        ...

    def copy_out(self, block_id: int, pace: Pace) -> None:
        """The block must be computed; the buffer holds it on return."""
        ...

    def copy_in(self, block_id: int, fence: object, pace: Pace) -> None:
        """The block holds the buffer's bytes on return."""
        ...

    def fence(self) -> object:
        """By the step loop's thread: what the device has been given up to now may still use a block's old content."""
        ...


def block_memory(cache: KVCache) -> BlockMemory:
    return DeviceBlocks(cache) if cache.keys[0].is_cuda else HostBlocks(cache)


class HostBlocks:
    """On a CPU: a block is written and read where it lies."""

    def __init__(self, cache: KVCache) -> None:
        # [num_blocks, bytes of a block] of each tensor.
        self._parts: list[npt.NDArray[np.uint8]] = [part.numpy() for part in _as_bytes(cache)]
        self._copy = np.empty(sum(part.shape[1] for part in self._parts), np.uint8)

    @property
    def block_bytes(self) -> int:
        return len(self._copy)

    @property
    def buffer(self) -> memoryview:
        return self._copy.data

    def copy_out(self, block_id: int, pace: Pace) -> None:
        at = paced = 0
        for part in self._parts:
            end = at + part.shape[1]
            self._copy[at:end] = part[block_id]
            paced, at = _paced(paced, end, pace), end

    def copy_in(self, block_id: int, fence: object, pace: Pace) -> None:
        at = paced = 0
        for part in self._parts:
            end = at + part.shape[1]
            part[block_id] = self._copy[at:end]
            paced, at = _paced(paced, end, pace), end

    def fence(self) -> object:
        return None


class DeviceBlocks:
    """On a GPU: by a stream of its own, through pinned memory, so that neither host nor device waits for a copy."""

    def __init__(self, cache: KVCache) -> None:
        self._parts = _as_bytes(cache)
        self._device = cache.keys[0].device
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pinned = torch.empty(sum(part.shape[1] for part in self._parts), dtype=torch.uint8, pin_memory=True)
        sizes = [part.shape[1] for part in self._parts]
        self._pieces = list(zip(self._parts, torch.split(self._pinned, sizes), strict=True))

    @property
    def block_bytes(self) -> int:
        return len(self._pinned)

    @property
    def buffer(self) -> memoryview:
        return self._pinned.numpy().data

    def copy_out(self, block_id: int, pace: Pace) -> None:
        # Published blocks were taken in by the host: the step that computed them has ended.
        with torch.cuda.stream(self._stream):
            for part, piece in self._pieces:
                piece.copy_(part[block_id], non_blocking=True)
        self._stream.synchronize()
        pace()

    def copy_in(self, block_id: int, fence: object, pace: Pace) -> None:
        assert isinstance(fence, torch.cuda.Event), "made by `fence`"
        self._stream.wait_event(fence)
        with torch.cuda.stream(self._stream):
            for part, piece in self._pieces:
                part[block_id].copy_(piece, non_blocking=True)
        self._stream.synchronize()
        pace()

    def fence(self) -> object:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


def _as_bytes(cache: KVCache) -> list[torch.Tensor]:
    """uint8 [num_blocks, bytes of a block] of each of the cache's tensors: views of it."""
    return [part.view(cache.num_blocks, -1).view(torch.uint8) for part in (*cache.keys, *cache.values)]


def _paced(paced: int, end: int, pace: Pace) -> int:
    """Asks the pace where so many bytes were copied since it was asked last."""
    if end - paced < PART_BYTES:
        return paced
    pace()
    return end
