"""Adapters on the device, and what would fit."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class SlotResident(msgspec.Struct, frozen=True):
    """A version on the device. names: of all adapters that have this content; none when it is no longer registered.
    versions: the same as `name@number`; of a mix, its recipe. first_row: of its `rank` rows in the pool."""

    slot: int
    digest: str
    names: Sequence[str]
    versions: Sequence[str]
    rank: int
    bytes: int
    pinned: bool
    users: int
    idle_seconds: float
    first_row: int


class SlotMoment(msgspec.Struct, frozen=True):
    """event: load (seconds: since it was wanted) or evict. names, versions: as a resident's."""

    at: float
    event: str
    slot: int
    digest: str
    names: Sequence[str]
    versions: Sequence[str]
    seconds: float
    bytes: int


class SlotForecast(msgspec.Struct, frozen=True):
    """What leaves for one more adapter of this rank, first what leaves first. fits: else it finds no room beside what
    is pinned or in use. digests, versions: of each that leaves."""

    rank: int
    fits: bool
    digests: list[str]
    versions: list[Sequence[str]]


class ReplicaSlots(msgspec.Struct, frozen=True):
    """replica: the engine's id. rows: rank rows of the pool. bytes: that the residents take."""

    replica: str
    pid: int
    slots: int
    rows: int
    bytes: int
    residents: list[SlotResident]
    timeline: list[SlotMoment]
    forecasts: list[SlotForecast]


class SlotsAnswer(msgspec.Struct, frozen=True):
    replicas: list[ReplicaSlots]


class CapacityAnswer(msgspec.Struct, frozen=True):
    """Whether what was asked about fits on the device as it is configured."""

    adapter_bytes: int
    rows_needed: int
    rows: int
    fits_adapters: bool
    kv_bytes: int
    blocks_needed: int
    blocks: int
    fits_context: bool
    advice: str
