"""Vectors of which a resident adapter has one or none at a site: magnitudes and biases. Knows no adapters."""

from __future__ import annotations

import torch

from multiflora_adapters.device.copies import DeviceCopies


class SlotVectors:
    """A float32 vector per slot, of a site: allocated when an adapter first brings one, neutral where none has."""

    def __init__(self, neutral: float, num_slots: int, width: int, device: torch.device, copies: DeviceCopies) -> None:
        self._neutral = neutral
        self._shape = (num_slots, width)
        self._device = device
        self._copies = copies
        self._rows: torch.Tensor | None = None
        self._slots: set[int] = set()

    @property
    def table(self) -> torch.Tensor | None:
        """[slots, width]; None while no resident adapter has a vector here."""
        return self._rows if self._slots else None

    def reserve(self) -> torch.Tensor:
        """The table, whoever uses it; it never moves."""
        if self._rows is None:
            self._rows = torch.full(self._shape, self._neutral, dtype=torch.float32, device=self._device)
        return self._rows

    def attach(self, slot: int) -> None:
        self._slots.add(slot)

    def detach(self, slot: int) -> None:
        """The slot's next adapter may have no vector. In the order of the copies, of which one to this row may be under
        way: on another stream it could arrive after the neutral value."""
        self._slots.discard(slot)
        if self._rows is not None:
            self._copies.fill(self._rows[slot], self._neutral)
