"""Tensors that adapters bring along beside their rank rows (rows of embedding and head, LoRA on experts), on the
device, within a budget of bytes.

Unlike rank rows they are allocated when an adapter comes and given back when it leaves: few adapters have any, and
those of one whole embedding, or of thousands of experts, would be a large part of any pool. Knows no slots but by
number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Generic, Protocol, Self, TypeVar

import torch

from multiflora_adapters.device.copies import DeviceCopies

_PIECE_BYTES = 2 << 20


class Movable(Protocol):
    """Some tensors that belong together."""

    @property
    def tensors(self) -> list[torch.Tensor]: ...

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """The same in other memory: move gives it for each tensor."""
        ...


Own = TypeVar("Own", bound=Movable)


class ByteBudget:
    """budget: bytes that the own tensors of all resident adapters may take together."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._bytes: dict[int, int] = {}

    def fits(self, num_bytes: int, without: Collection[int] = ()) -> bool:
        """Whether there is room once the slots `without` are freed."""
        taken = sum(taken for slot, taken in self._bytes.items() if slot not in without)
        return not num_bytes or taken + num_bytes <= self.budget

    def claim(self, slot: int, num_bytes: int) -> None:
        """Count the bytes of a slot's adapter, before they are allocated; `free` ends it."""
        assert self.fits(num_bytes), "the caller has asked"
        self._bytes[slot] = num_bytes

    def free(self, slot: int) -> None:
        self._bytes.pop(slot, None)


class OwnTensors(Generic[Own]):
    """One kind of them, by the name of what they are for."""

    def __init__(self, device: torch.device, copies: DeviceCopies) -> None:
        self._device = device
        self._copies = copies
        self._attached: dict[str, dict[int, Own]] = {}

    def of(self, name: str) -> Mapping[int, Own]:
        """Slot -> its tensors there, live."""
        return self._attached.setdefault(name, {})

    def allocate(self, host: Mapping[str, Own]) -> dict[str, Own]:
        """Memory for an adapter's; on a CPU that which they came in."""
        if self._device.type == "cpu":
            return dict(host)
        made = {id(own): own.moved(self._empty) for own in host.values()}
        return {name: made[id(own)] for name, own in host.items()}

    def pieces(self, host: Mapping[str, Own], target: Mapping[str, Own]) -> Iterator[int]:
        """Fill what `allocate` gave, in small pieces; yields the bytes of each."""
        pairs = {id(own): (own, target[name]) for name, own in host.items()}
        for own, there in pairs.values():
            if there is not own:
                for source, copy in zip(own.tensors, there.tensors, strict=True):
                    yield from self._copy_in_pieces(source, copy)

    def _copy_in_pieces(self, source: torch.Tensor, target: torch.Tensor) -> Iterator[int]:
        rows = max(1, _PIECE_BYTES // max(1, source.stride(0) * source.element_size()))
        for start in range(0, len(source), rows):
            piece = source[start : start + rows]
            self._copies.copy(piece, target[start : start + rows])
            yield piece.nbytes

    def attach(self, slot: int, own: Mapping[str, Own]) -> None:
        for name, of_name in own.items():
            self._attached.setdefault(name, {})[slot] = of_name

    def free(self, slot: int) -> None:
        for by_slot in self._attached.values():
            by_slot.pop(slot, None)

    def _empty(self, tensor: torch.Tensor) -> torch.Tensor:
        made = torch.empty_like(tensor, device=self._device)
        self._copies.keep(made)
        return made
