"""Copies from host memory to the device, on a GPU beside whatever it computes. Knows nothing of what is copied."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch

from multiflora_adapters.weights import HostAdapter, SiteWeights


class DeviceCopies:
    """A stream of its own for copies. On a CPU each copy is done when the call returns."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Copies that follow wait for all that the device was given so far: it may still read what they overwrite."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Starts a copy; the source should be pinned (see `pinned`), or the host waits."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

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
        """Asks, whenever it is called, whether the copies started so far are done."""
        return (lambda: True) if self._stream is None else self._stream.record_event().query


def pinned(adapter: HostAdapter) -> HostAdapter:
    """The same adapter in memory from which a GPU copies by itself."""
    sites = {
        name: SiteWeights(
            site.a.pin_memory(),
            site.b.pin_memory(),
            None if site.magnitude is None else site.magnitude.pin_memory(),
            None if site.shift is None else site.shift.pin_memory(),
        )
        for name, site in adapter.sites.items()
    }
    pinned_rows = {id(rows): rows.moved(torch.Tensor.pin_memory) for rows in adapter.replaced.values()}
    replaced = {name: pinned_rows[id(rows)] for name, rows in adapter.replaced.items()}
    experts = {name: weights.moved(torch.Tensor.pin_memory) for name, weights in adapter.experts.items()}
    return replace(adapter, sites=sites, replaced=replaced, experts=experts)
