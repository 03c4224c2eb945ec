"""Rows of embedding and head that adapters bring along, on the device, within a budget of bytes.

Unlike rank rows they are allocated when an adapter comes and given back when it leaves: few adapters have any, and
those of one whole embedding would be a large part of any pool. Knows no slots but by number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch

from multiflora_adapters.device_copies import DeviceCopies
from multiflora_adapters.weights import HostAdapter, ReplacedRows

_PIECE_BYTES = 2 << 20


class ReplacedRowsPool:
    """budget: bytes that the rows of all resident adapters may take together."""

    def __init__(self, device: torch.device, budget: int, copies: DeviceCopies) -> None:
        self.budget = budget
        self._device = device
        self._copies = copies
        self._bytes: dict[int, int] = {}
        self._attached: dict[str, dict[int, ReplacedRows]] = {}

    def of_site(self, name: str) -> Mapping[int, ReplacedRows]:
        """Slot -> its rows at the site, live."""
        return self._attached.setdefault(name, {})

    def fits(self, num_bytes: int, without: Collection[int] = ()) -> bool:
        """Whether there is room once the slots `without` are freed."""
        taken = sum(taken for slot, taken in self._bytes.items() if slot not in without)
        return not num_bytes or taken + num_bytes <= self.budget

    def claim(self, slot: int, num_bytes: int) -> None:
        """Count the bytes of a slot's adapter, before they are allocated; `free` ends it."""
        assert self.fits(num_bytes), "the caller has asked"
        self._bytes[slot] = num_bytes

    def allocate(self, host: HostAdapter) -> dict[str, ReplacedRows]:
        """Memory for the adapter's rows; on a CPU those that it came with."""
        if self._device.type == "cpu":
            return dict(host.replaced)
        made = {id(rows): self._empty(rows) for rows in host.replaced.values()}
        return {name: made[id(rows)] for name, rows in host.replaced.items()}

    def pieces(self, host: HostAdapter, target: Mapping[str, ReplacedRows]) -> Iterator[int]:
        """Fill what `allocate` gave, in small pieces; yields the bytes of each."""
        pairs = {id(rows): (rows, target[name]) for name, rows in host.replaced.items()}
        for source, rows in pairs.values():
            if rows is source:
                continue
            if source.token_ids is not None and rows.token_ids is not None:
                self._copies.copy(source.token_ids, rows.token_ids)
            step = max(1, _PIECE_BYTES // (source.values.stride(0) * source.values.element_size()))
            for start in range(0, len(source.values), step):
                piece = source.values[start : start + step]
                self._copies.copy(piece, rows.values[start : start + step])
                yield piece.nbytes

    def attach(self, slot: int, rows: Mapping[str, ReplacedRows]) -> None:
        for name, of_site in rows.items():
            self._attached.setdefault(name, {})[slot] = of_site

    def free(self, slot: int) -> None:
        self._bytes.pop(slot, None)
        for rows in self._attached.values():
            rows.pop(slot, None)

    def _empty(self, rows: ReplacedRows) -> ReplacedRows:
        token_ids = None if rows.token_ids is None else torch.empty_like(rows.token_ids, device=self._device)
        return ReplacedRows(token_ids, torch.empty_like(rows.values, device=self._device))
