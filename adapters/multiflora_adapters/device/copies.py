"""Copies from host memory to the device, on a GPU beside whatever it computes. Knows nothing of what is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace

import torch

from multiflora_adapters.device.slab import Pair, Part, pairs_of, side_by_side
from multiflora_adapters.weights import HostAdapter

_PIECE_BYTES = 2 << 20
_BYTES_AT_ONCE, _BYTES_AT_ONCE_ON_HOST = 128 << 20, 8 << 20
_LEAST_BYTES = 256 << 10
"""Of a GPU's copy as it is counted: about as many are sent while the host begins one, so that it never begins many."""


class DeviceCopies:
    """A stream of its own for copies. On a CPU each copy is done once it is sent."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._sources: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    @property
    def bytes_at_once(self) -> int:
        """That may be begun between two steps: on a GPU copied beside them in a few milliseconds, on a CPU at once."""
        return _BYTES_AT_ONCE_ON_HOST if self._stream is None else _BYTES_AT_ONCE

    @property
    def least_bytes(self) -> int:
        """As which the smallest copy counts among them."""
        return 0 if self._stream is None else _LEAST_BYTES

    def begin(self) -> None:
        """Copies that follow wait for all that the device was given so far: it may still read what they overwrite."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def pieces(self, pairs: Iterable[Pair]) -> Iterator[int]:
        """Copies in pieces, of which it yields the bytes; `send` starts them. Sources should be pinned (see `pinned`),
        or the host waits."""
        for source, target in pairs:
            if source.nbytes <= _PIECE_BYTES:
                yield self._add(source, target)
                continue
            rows = max(1, _PIECE_BYTES * len(source) // source.nbytes)
            for first, part in zip(torch.split(source, rows), torch.split(target, rows), strict=True):
                yield self._add(first, part)

    def _add(self, source: torch.Tensor, target: torch.Tensor) -> int:
        self._sources.append(source)
        self._targets.append(target)
        return source.nbytes

    def send(self) -> None:
        """Starts the copies that `pieces` has given, by one call: one by one they would take the host longer."""
        sources, targets = self._sources, self._targets
        self._sources, self._targets = [], []
        if sources:
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                torch._foreach_copy_(targets, sources, non_blocking=True)

    def fill(self, target: torch.Tensor, value: float) -> None:
        """As `copy`, of one value: in the order of the copies to the same place."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            target.fill_(value)

    def keep(self, target: torch.Tensor) -> None:
        """When its tensor is gone, the target's memory is not another's before copies to it have ended. For memory
        that is given back: a copy may be under way when its adapter has to leave."""
        if self._stream is not None:
            target.record_stream(self._stream)

    def finished(self) -> Callable[[], bool]:
        """Asks, whenever it is called, whether the copies started so far are done; those that wait to be are sent."""
        self.send()
        return (lambda: True) if self._stream is None else self._stream.record_event().query


def pinned(adapter: HostAdapter) -> HostAdapter:
    """The same adapter in memory from which a GPU copies by itself, and in few pieces of it."""
    sites, replaced, experts = _pinned(adapter.sites), _pinned(adapter.replaced), _pinned(adapter.experts)
    return replace(adapter, sites=sites, replaced=replaced, experts=experts)


def _pinned(parts: Mapping[str, Part]) -> dict[str, Part]:
    moved = side_by_side(parts, lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=True))
    for source, target in pairs_of(parts, moved):
        target.copy_(source)
    return moved
