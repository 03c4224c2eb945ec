"""Where adapters' LoRA on experts lies on the device: addresses, by which kernels serve all adapters at once.

Unlike rank rows it is in memory that comes and goes with an adapter; a CUDA graph knows only the table, which does not
move. Knows no slots but by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from multiflora_adapters.experts.weights import ExpertWeights

_FIELDS = 5


@dataclass(frozen=True)
class ExpertPoolSite:
    """One linear of all experts, what a LoRA kernel reads (it satisfies the kernels' ExpertSite)."""

    addresses: torch.Tensor  # int64 [slots, 5]: of a, b, offsets, ranks, magnitude; 0 where there is none. A view
    max_rank: int  # no expert of an adapter has more


class ExpertAddresses:
    """linears: names (`ExpertLinear.name`) of all layers. max_rank: that no adapter exceeds."""

    def __init__(self, linears: Sequence[str], num_slots: int, max_rank: int, device: torch.device) -> None:
        self._places = {name: place for place, name in enumerate(linears)}
        self._max_rank = max_rank
        self._table = torch.zeros(len(linears), num_slots, _FIELDS, dtype=torch.int64, device=device)
        self._touched: dict[int, frozenset[str]] = {}

    def site(self, linear: str) -> ExpertPoolSite:
        return ExpertPoolSite(self._table[self._places[linear]], self._max_rank)

    @property
    def in_use(self) -> frozenset[str]:
        """Linears that resident adapters touch."""
        return frozenset[str]().union(*self._touched.values())

    def attach(self, slot: int, own: Mapping[str, ExpertWeights]) -> None:
        """own: where the adapter's weights lie, by linear; they stay until `detach`."""
        if not own:
            return
        device = self._table.device
        rows = torch.zeros(len(self._places), _FIELDS, dtype=torch.int64, pin_memory=device.type == "cuda")
        for name, weights in own.items():
            assert weights.max_rank <= self._max_rank, "validation refuses higher ranks"
            rows[self._places[name]] = torch.tensor(_addresses(weights))
        self._table[:, slot] = rows.to(device, non_blocking=True)
        self._touched[slot] = frozenset(own)

    def detach(self, slot: int) -> None:
        if self._touched.pop(slot, None) is not None:
            self._table[:, slot] = 0


def _addresses(weights: ExpertWeights) -> list[int]:
    magnitude = weights.magnitude
    parts = (weights.a, weights.b, weights.offsets, weights.ranks)
    return [*(part.data_ptr() for part in parts), 0 if magnitude is None else magnitude.data_ptr()]
