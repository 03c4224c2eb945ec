"""Where adapters sit on the device: a pool of rank rows per site, one (offset, rank) per adapter.

Memory follows rank: an adapter of rank 8 takes 8 rows at every site, whatever the configured maximum. The pool knows
neither files nor which requests use a slot; residency decides what comes and goes.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass

import torch

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.device.copies import DeviceCopies
from multiflora_adapters.device.expert_addresses import ExpertAddresses, ExpertPoolSite
from multiflora_adapters.device.own_tensors import ByteBudget, OwnTensors
from multiflora_adapters.device.rows import RowAllocator
from multiflora_adapters.device.slab import Pair
from multiflora_adapters.device.slot_vectors import SlotVectors
from multiflora_adapters.experts.weights import ExpertWeights
from multiflora_adapters.weights import HostAdapter, ReplacedRows, SiteWeights

_ROWS_PER_SLOT = 8  # a slot for every 8 rows: adapters of rank 8 use up both together
_RANK_STEP = 16  # kernels work on tiles of 16 rows


def pool_size(max_loras: int, max_lora_rank: int) -> tuple[int, int]:
    """(num_slots, num_rows): rows for `max_loras` adapters of the highest rank, slots for many more of a low one."""
    num_rows = max_loras * max_lora_rank
    return max(max_loras, num_rows // _ROWS_PER_SLOT), num_rows


class PoolSite:
    """One site's share of the pool; what a LoRA kernel reads (it satisfies the kernels' LoraSite).

    Embedding and head take no memory (R = 0) before an adapter touches them.
    """

    a: torch.Tensor  # [R, K]; [V, R] for an embedding; an upload fills an adapter's rows
    b: torch.Tensor  # [R, N], scaling folded in; likewise
    offsets: torch.Tensor  # int32 [slots]: the slot's first row, the pool's own tensor, the same at every site
    ranks: torch.Tensor  # int32 [slots]: 0 where the slot's adapter does not touch the site; the pool sets it
    max_rank: int  # a multiple of 16 that no adapter's rank exceeds
    replaced_rows: Mapping[int, ReplacedRows]  # slot -> rows of its adapter that stand for the base's, live

    def __init__(
        self,
        site: Site,
        num_rows: int,
        max_rank: int,
        dtype: torch.dtype,
        offsets: torch.Tensor,
        ranks: torch.Tensor,
        copies: DeviceCopies,
        replaced_rows: Mapping[int, ReplacedRows],
    ) -> None:
        self.site = site
        self.replaced_rows = replaced_rows
        self.max_rank = max_rank
        self.offsets = offsets
        self.ranks = ranks
        self._num_rows = num_rows
        self._copies = copies
        self._slots: set[int] = set()
        self._magnitude = SlotVectors(1.0, len(offsets), site.out_features, offsets.device, copies)
        self._shift = SlotVectors(0.0, len(offsets), site.out_features, offsets.device, copies)
        self.a = torch.empty(0, dtype=dtype, device=offsets.device)
        self.b = self.a
        self._allocate(num_rows if site.layer is not None else 0)

    @property
    def active(self) -> bool:
        """Whether any resident adapter touches the site; if not, the kernel need not be called."""
        return bool(self._slots)

    @property
    def is_allocated(self) -> bool:
        """Whether the site has memory, so that a kernel may be called, whatever adapters are resident."""
        return self.b.shape[0] > 0

    @property
    def magnitude(self) -> torch.Tensor | None:
        """float32 [slots, N], 1 for adapters without DoRA; None while no resident adapter has DoRA here."""
        return self._magnitude.table

    @property
    def shift(self) -> torch.Tensor | None:
        """float32 [slots, N], 0 for adapters without biases; None while no resident adapter has a bias here."""
        return self._shift.table

    def reserve(self, weights: SiteWeights) -> None:
        """Take the memory that an adapter's share asks for, if nothing has asked for it before."""
        if self.b.shape[0] == 0:
            self._allocate(self._num_rows)
        for vectors, vector in self._vectors(weights):
            if vector is not None:
                vectors.reserve()

    def pairs(self, slot: int, offset: int, weights: SiteWeights) -> Iterator[Pair]:
        """The copies that bring an adapter's share. Kernels look there only after attach."""
        # An embedding looks rows of A up by token, so its A lies token by token; a linear's lies rank row by rank row.
        across = 1 if self.site.kind == "embedding" else 0
        yield weights.a, self.a.narrow(across, offset, weights.rank)
        yield weights.b, self.b.narrow(0, offset, weights.rank)
        for vectors, vector in self._vectors(weights):
            if vector is not None:
                yield vector, vectors.reserve()[slot]

    def attach(self, slot: int, weights: SiteWeights) -> None:
        self._slots.add(slot)
        for vectors, vector in self._vectors(weights):
            if vector is not None:
                vectors.attach(slot)

    def detach(self, slot: int) -> None:
        self._slots.discard(slot)
        self._magnitude.detach(slot)
        self._shift.detach(slot)

    def _vectors(self, weights: SiteWeights) -> tuple[tuple[SlotVectors, torch.Tensor | None], ...]:
        return (self._magnitude, weights.magnitude), (self._shift, weights.shift)

    def _allocate(self, num_rows: int) -> None:
        token_major = self.site.kind == "embedding"
        shape = (self.site.in_features, num_rows) if token_major else (num_rows, self.site.in_features)
        self.a = self.a.new_empty(shape)
        self.b = self.b.new_empty((num_rows, self.site.out_features))


@dataclass(frozen=True)
class _Resident:
    """What occupies a slot; `begin` fills it, before the first byte is copied."""

    host: HostAdapter
    offset: int  # of its first row in the pool, the same at every site


class SlotUpload:
    """The copy of an adapter into its slot, in bounded steps. pieces: bytes of each, which `copies` sends; 0 while a
    device is waited for."""

    def __init__(self, slot: int, pieces: Iterator[int], copies: DeviceCopies) -> None:
        self.slot = slot
        self._pieces = pieces
        self._copies = copies

    def step(self, max_bytes: int) -> tuple[int, bool]:
        """Copy until at least `max_bytes` are under way: (bytes, whether the adapter is complete and attached). A small
        copy counts as many as a GPU is sent while the host begins it."""
        try:
            return self._step(max_bytes)
        finally:
            self._copies.send()

    def _step(self, max_bytes: int) -> tuple[int, bool]:
        copied = 0
        while copied < max_bytes:
            piece = next(self._pieces, None)
            if piece is None:
                return copied, True
            if piece == 0:
                break
            copied += max(piece, self._copies.least_bytes)
        return copied, False


class SlotPool:
    """The adapters on the device. dtype: of a and b. Not thread-safe: the step loop alone uses it."""

    def __init__(
        self,
        base: BaseModel,
        num_slots: int,
        num_rows: int,
        dtype: torch.dtype,
        device: torch.device | str,
        max_rank: int | None = None,
        own_bytes: int = 0,
    ) -> None:
        """max_rank: no adapter has a higher one; None: whatever the rows hold. own_bytes: what tensors that adapters
        bring beside their rank rows (`HostAdapter.own_bytes`) may take together.
        """
        self.num_slots = num_slots
        self.num_rows = num_rows
        self._device = torch.device(device)
        self._copies = DeviceCopies(self._device)
        self._own_bytes = ByteBudget(own_bytes)
        self._replaced: OwnTensors[ReplacedRows] = OwnTensors(self._device, self._copies)
        self._experts: OwnTensors[ExpertWeights] = OwnTensors(self._device, self._copies)
        highest = -(-(max_rank or num_rows) // _RANK_STEP) * _RANK_STEP
        self.offsets = torch.zeros(num_slots, dtype=torch.int32, device=device)
        self._ranks = torch.zeros(len(base.sites), num_slots, dtype=torch.int32, device=device)
        self._sites = {
            name: PoolSite(
                site,
                num_rows,
                highest,
                dtype,
                self.offsets,
                self._ranks[i],
                self._copies,
                self._replaced.of(name),
            )
            for i, (name, site) in enumerate(base.sites.items())
        }
        self._rows = RowAllocator(num_rows)
        linears = [linear.name for layer in base.sparse_layers for linear in layer.linears]
        self._addresses = ExpertAddresses(linears, num_slots, highest, self._device)
        self._residents: dict[int, _Resident] = {}
        self._layouts: dict[Hashable, int] = {}
        self._layout = self._current_layout()

    def site(self, name: str) -> PoolSite:
        """The live object of a site; it stays the same for the pool's whole life."""
        return self._sites[name]

    def experts(self, linear: str) -> Mapping[int, ExpertWeights]:
        """Slot -> its adapter's LoRA on one linear of all experts of a layer, by `ExpertLinear.name`; live."""
        return self._experts.of(linear)

    def expert_site(self, linear: str) -> ExpertPoolSite:
        """The same for kernels that serve all adapters at once; it stays the same for the pool's whole life."""
        return self._addresses.site(linear)

    @property
    def layout(self) -> int:
        """Names the set of tensors that a CUDA graph over all allocated sites holds: same number, same tensors.

        It changes when embedding, head, a magnitude, a shift or LoRA on experts comes into use, and comes back with the
        last user.
        """
        return self._layout

    @property
    def own_budget(self) -> int:
        """Bytes that tensors beside the rank rows may take, of all adapters together."""
        return self._own_bytes.budget

    @property
    def bytes_at_once(self) -> int:
        """That uploads may copy between two steps."""
        return self._copies.bytes_at_once

    @property
    def bytes_in_use(self) -> int:
        """Bytes that the resident adapters' own values take."""
        return sum(resident.host.num_bytes for resident in self._residents.values())

    def first_row(self, slot: int) -> int:
        """Of the slot's adapter in the pool, the same at every site."""
        return self._residents[slot].offset

    def put(self, host: HostAdapter) -> int | None:
        """Copy the whole adapter now: its slot, or None when it does not fit."""
        upload = self.begin(host)
        if upload is None:
            return None
        while not upload.step(self.bytes_at_once)[1]:
            pass
        return upload.slot

    def begin(self, host: HostAdapter, *, at_end: bool = False) -> SlotUpload | None:
        """Reserve a slot and rows for the adapter, or None when it does not fit now.

        at_end: take the last rows that fit rather than the first; for adapters that stay, so that they do not split
        the room of those that come and go.
        """
        if not self._own_bytes.fits(host.own_bytes):
            return None
        slot = next((s for s in range(self.num_slots) if s not in self._residents), None)
        offset = None if slot is None else self._rows.allocate(host.rank, at_end)
        if slot is None or offset is None:
            return None
        self._residents[slot] = _Resident(host, offset)
        self._own_bytes.claim(slot, host.own_bytes)
        return SlotUpload(slot, self._copy(slot, offset, host), self._copies)

    def remove(self, slot: int) -> None:
        """Free the slot, also of an unfinished upload (which must not be stepped again)."""
        resident = self._residents.pop(slot)
        self._rows.free(resident.offset)
        self._own_bytes.free(slot)
        self._replaced.free(slot)
        self._experts.free(slot)
        self._addresses.detach(slot)
        # Kernels skip a slot of rank 0, so that its rows may go to another adapter at once.
        self._ranks[:, slot] = 0
        # A launched step may still read the vectors that are now reset.
        self._copies.begin()
        for name in resident.host.sites:
            self._sites[name].detach(slot)
        self._layout = self._current_layout()

    def would_fit(self, rank: int, without: Collection[int], own_bytes: int = 0) -> bool:
        """Whether an adapter of this rank and these bytes beside fits once the slots `without` are removed."""
        has_slot = len(self._residents) - len(without) < self.num_slots
        has_room = has_slot and self._own_bytes.fits(own_bytes, without)
        return has_room and self._rows.would_fit(rank, {self._residents[slot].offset for slot in without})

    def _copy(self, slot: int, offset: int, host: HostAdapter) -> Iterator[int]:
        for name, weights in host.sites.items():
            self._sites[name].reserve(weights)
        replaced, experts = self._replaced.allocate(host.replaced), self._experts.allocate(host.experts)
        # The rows may have been an evicted adapter's that a launched step still reads: copies wait for that step.
        self._copies.begin()
        shares = host.sites.items()
        yield from self._copies.pieces(
            pair for name, weights in shares for pair in self._sites[name].pairs(slot, offset, weights)
        )
        yield from self._replaced.pieces(host.replaced, replaced)
        yield from self._experts.pieces(host.experts, experts)
        is_there = self._copies.finished()
        while not is_there():
            yield 0
        self._replaced.attach(slot, replaced)
        self._experts.attach(slot, experts)
        self._addresses.attach(slot, experts)
        self._attach(slot, offset, host)

    def _attach(self, slot: int, offset: int, host: HostAdapter) -> None:
        # One small copy for all sites; it is queued before the next step's kernels, the first that may see the adapter.
        ranks = [host.sites[name].rank if name in host.sites else 0 for name in self._sites]
        on_host = torch.tensor(ranks, dtype=torch.int32, pin_memory=self._device.type == "cuda")
        self._ranks[:, slot] = on_host.to(self._device, non_blocking=True)
        self.offsets[slot] = offset
        for name, weights in host.sites.items():
            self._sites[name].attach(slot, weights)
        self._layout = self._current_layout()

    def _current_layout(self) -> int:
        """Allocated tensors never move, so which there are says all."""
        present = tuple(
            (site.is_allocated, site.magnitude is not None, site.shift is not None) for site in self._sites.values()
        )
        return self._layouts.setdefault((present, self._addresses.in_use), len(self._layouts))
