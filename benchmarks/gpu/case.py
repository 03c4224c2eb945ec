"""What a part of the first contact consists of. Imports nothing heavy: the driver reads it, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu.measure import Limits


@dataclass(frozen=True)
class Case:
    """One row. run: finds it out; its values go to the journal. seconds: after which it counts as hanging."""

    name: str
    run: Callable[[], dict[str, Any]]
    seconds: float = 45.0


@dataclass(frozen=True)
class Setting:
    """Where and on what the parts run. layers: of the model; fewer than Llama 3.1 8B's 32 for a rehearsal."""

    device: str = "cuda"
    layers: int = 32
    known_limits: tuple[float, float] | None = None
    """Bytes and FLOP a second, where the part that measures them has; else each process measures them for itself."""

    @cached_property
    def limits(self) -> Limits:
        from gpu.measure import Limits, measure_limits

        return measure_limits() if self.known_limits is None else Limits(*self.known_limits)


Cases = Callable[[Setting], Iterator[Case]]
"""What a part's module has as `cases`: names at once, work and memory only when a case is run."""
