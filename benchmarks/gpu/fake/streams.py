"""Streams and events of a GPU that is not there, and which operations on them have an order. Knows no kernels.

Vector clocks: an operation is ordered behind another when its stream has waited for that one's, or when the host had
seen that one done before it launched this one.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Clock = dict[int, int]
"""Stream -> how many of its operations are known to be done before what comes next."""

_MOST_ACCESSES = 64
"""Of a storage that are remembered: far more than are under way at once."""


@dataclass(frozen=True)
class _Access:
    stream: int
    at: int
    is_write: bool
    first: int
    end: int
    operation: str


class Stream:
    """Work in the order of its launches."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.number = host.new_stream()
        self.clock: Clock = {}
        self.device = torch.device("cuda", 0)
        self.cuda_stream = self.number

    def wait_stream(self, other: Stream) -> None:
        merge(self.clock, other.clock)

    def wait_event(self, event: Event) -> None:
        merge(self.clock, event.clock)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event(self._host)
        event.record(self)
        return event

    def synchronize(self) -> None:
        merge(self._host.clock, self.clock)


class Event:
    """A point in a stream. It has always been reached when it is asked for."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.clock: Clock = {}

    def record(self, stream: Stream | None = None) -> None:
        self.clock = dict((stream or self._host.current).clock)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self._host.current).wait_event(self)

    def query(self) -> bool:
        self.synchronize()
        return True

    def synchronize(self) -> None:
        merge(self._host.clock, self.clock)

    def elapsed_time(self, end: Event) -> float:
        return 1.0


class Host:
    """What launches, and knows what it has seen done. races: what was launched without an order, in words."""

    def __init__(self) -> None:
        self._streams = 0
        self._accesses: dict[int, list[_Access]] = {}
        self._homes: dict[int, Stream] = {}
        self._kept: set[tuple[int, int]] = set()
        self.clock: Clock = {}
        self.current = Stream(self)
        self._all = [self.current]
        self.races: list[str] = []

    def new_stream(self) -> int:
        self._streams += 1
        return self._streams

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        if stream not in self._all:
            self._all.append(stream)
        try:
            yield
        finally:
            self.current = before

    def synchronize(self) -> None:
        for stream in self._all:
            stream.synchronize()

    def touch(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """An operation of PyTorch is launched on the current stream."""
        stream = self.current
        merge(stream.clock, self.clock)
        stream.clock[stream.number] = stream.clock.get(stream.number, 0) + 1
        if func.namespace != "aten" or _only_looks(func):
            return
        for argument, value in zip(func._schema.arguments, args, strict=False):
            for tensor in value if isinstance(value, list | tuple) else [value]:
                if isinstance(tensor, torch.Tensor) and tensor.is_cuda and tensor.numel():
                    is_write = argument.alias_info is not None and argument.alias_info.is_write
                    self._access(tensor, is_write, str(func))

    def _access(self, tensor: torch.Tensor, is_write: bool, operation: str) -> None:
        stream, size = self.current, tensor.element_size()
        first = int(tensor.storage_offset()) * size
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        end = first + int(sum((count - 1) * stride for count, stride in steps) + 1) * size
        before = self._accesses_of(tensor)
        for other in before:
            touches = other.first < end and first < other.end and (is_write or other.is_write)
            if touches and stream.clock.get(other.stream, 0) < other.at:
                self.races.append(f"{operation} beside {other.operation}")
        now = stream.clock[stream.number]
        before.append(_Access(stream.number, now, is_write, first, end, operation))
        del before[:-_MOST_ACCESSES]

    def keep(self, tensor: torch.Tensor, stream: Stream) -> None:
        """As `Tensor.record_stream`: memory that is given back waits for what the stream was given until then."""
        self._accesses_of(tensor)
        self._kept.add((tensor.untyped_storage()._cdata, stream.number))

    def returned(self, func: Any, tensor: torch.Tensor) -> None:
        """By an operation, which has written to it if its memory is new."""
        if tensor.untyped_storage()._cdata not in self._accesses:
            self._accesses_of(tensor)
            if tensor.numel() and "empty" not in func.name():
                self._access(tensor, True, str(func))

    def _accesses_of(self, tensor: torch.Tensor) -> list[_Access]:
        """Memory that was not known before is the current stream's."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._accesses:
            self._accesses[storage._cdata] = []
            self._homes[storage._cdata] = self.current
            weakref.finalize(storage, self._give_back, storage._cdata).atexit = False
        return self._accesses[storage._cdata]

    def _give_back(self, storage: int) -> None:
        """Its memory may be anything's at once that its stream is given next."""
        known = dict(self.clock)
        merge(known, self._homes.pop(storage).clock)
        for access in self._accesses.pop(storage):
            if (storage, access.stream) not in self._kept and known.get(access.stream, 0) < access.at:
                self.races.append(f"given back beside {access.operation}")
        self._kept = {kept for kept in self._kept if kept[0] != storage}


def merge(clock: Clock, other: Mapping[int, int]) -> None:
    """Adds to the first what the second knows."""
    for stream, count in other.items():
        clock[stream] = max(count, clock.get(stream, 0))


def _only_looks(func: Any) -> bool:
    """Whether it gives a view: that reads nothing."""
    aliases = [argument.alias_info for argument in func._schema.arguments]
    return any(alias is not None and not alias.is_write for alias in aliases)
