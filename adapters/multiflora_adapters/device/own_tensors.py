"""Tensors that adapters bring along beside their rank rows (rows of embedding and head, LoRA on experts), on the
device, within a budget of bytes.

Unlike rank rows they are allocated when an adapter comes and given back when it leaves: few adapters have any, and
those of one whole embedding, or of thousands of experts, would be a large part of any pool. Knows no slots but by
number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Generic

import torch

from multiflora_adapters.device.copies import DeviceCopies
from multiflora_adapters.device.slab import Part, joined, pairs_of, side_by_side


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


class OwnTensors(Generic[Part]):
    """One kind of them, by the name of what they are for."""

    def __init__(self, device: torch.device, copies: DeviceCopies) -> None:
        self._device = device
        self._copies = copies
        self._attached: dict[str, dict[int, Part]] = {}

    def of(self, name: str) -> Mapping[int, Part]:
        """Slot -> its tensors there, live."""
        return self._attached.setdefault(name, {})

    def allocate(self, host: Mapping[str, Part]) -> dict[str, Part]:
        """Memory for an adapter's; on a CPU that which they came in."""
        if self._device.type == "cpu":
            return dict(host)
        return side_by_side(host, self._memory)

    def pieces(self, host: Mapping[str, Part], target: Mapping[str, Part]) -> Iterator[int]:
        """Fill what `allocate` gave, in small pieces; yields the bytes of each."""
        return iter(()) if self._device.type == "cpu" else self._copies.pieces(joined(pairs_of(host, target)))

    def attach(self, slot: int, own: Mapping[str, Part]) -> None:
        for name, of_name in own.items():
            self._attached.setdefault(name, {})[slot] = of_name

    def free(self, slot: int) -> None:
        for by_slot in self._attached.values():
            by_slot.pop(slot, None)

    def _memory(self, num_bytes: int) -> torch.Tensor:
        made = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        self._copies.keep(made)
        return made
