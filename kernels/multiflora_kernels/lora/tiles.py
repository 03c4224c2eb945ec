"""The table by which LoRA kernels find their work: runs of a few tokens of one adapter, made on the host in numpy.

Owns the table's layout and its sizes. Does not know sites, ranks nor kernels. A table of a fixed capacity may be filled
anew between replays of a CUDA graph: the host that launches a kernel over it knows nothing of its contents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

TILE_FIELDS = 5
"""(first token, tokens, slot, tiles of adapters, tiles with tokens). Tiles of base rows have slot -1 and follow those
of adapters; then come tiles without tokens, up to the table's capacity. The last two fields are the same in all: how
far kernels have to go that serve adapters alone, and those that touch every row."""

DECODE_TILE, PREFILL_TILE = 16, 64
"""Tokens of a tile: the least rows a tensor core takes, and what keeps it busy."""

_PREFILL_SEGMENT = 48
"""A batch with a segment of so many tokens gets large tiles."""

Table = npt.NDArray[np.int32]


@dataclass(frozen=True)
class LoraTiles:
    """A filled (or, in a graph, still to be filled) table on the device. `build_tiles` and `static_tiles` make it."""

    table: torch.Tensor  # int32: [max_tiles, TILE_FIELDS], and after it the slot of every row (-1: the base's)
    max_adapter_tiles: int  # tiles of adapters are among the first so many: a launch over these reaches them all
    max_tiles: int
    tile: int  # tokens of a tile at most
    is_static: bool  # the contents change between launches, so that the host knows only capacities

    @property
    def row_slots(self) -> torch.Tensor:
        """int32 [rows], a view."""
        return self.table[TILE_FIELDS * self.max_tiles :]


def table_entries(max_tokens: int, max_segments: int) -> int:
    """int32 entries of a decode table that can describe any batch of so many tokens and segments."""
    return TILE_FIELDS * _capacity(max_tokens, max_segments, DECODE_TILE) + max_tokens


def fill_table(
    table: Table, starts: Sequence[int], slots: Sequence[int], num_rows: int, tile: int = DECODE_TILE
) -> None:
    """Writes the tiles of a batch into `table` [entries].

    starts, slots: as for `LoraSegments.build`. num_rows: rows of the batch (of a static table: its max_tokens); those
    past starts[-1] count as the base's.
    """
    tiles, row_slots = np.split(table, [len(table) - num_rows])
    row_slots[: starts[0]], row_slots[starts[-1] :] = -1, -1
    row_slots[starts[0] : starts[-1]] = np.repeat(np.asarray(slots, dtype=np.int32), np.diff(starts))
    firsts, counts, owners = _tiles(starts, slots, num_rows, tile)
    used = len(firsts)
    rows = tiles.reshape(-1, TILE_FIELDS)
    assert used <= len(rows), "the batch has more tokens or segments than the table was made for"
    rows[:used, 0], rows[:used, 1], rows[:used, 2] = firsts, counts, owners
    rows[used:, :2], rows[used:, 2] = 0, -1
    rows[:, 3], rows[:, 4] = np.count_nonzero(owners >= 0), np.count_nonzero(counts)


def static_tiles(table: torch.Tensor, max_tokens: int, max_segments: int) -> LoraTiles:
    """table: int32 [table_entries(max_tokens, max_segments)] on the device; `fill_table` fills it for each launch."""
    assert table.dtype == torch.int32, "the kernels read int32"
    assert len(table) >= table_entries(max_tokens, max_segments), "the table is too small for its capacity"
    max_tiles = _capacity(max_tokens, max_segments, DECODE_TILE)
    max_adapter_tiles = min(max_tokens, max_segments + max_tokens // DECODE_TILE)
    return LoraTiles(table, max_adapter_tiles, max_tiles, DECODE_TILE, is_static=True)


def build_tiles(starts: Sequence[int], slots: Sequence[int], upload: Callable[[Table], torch.Tensor]) -> LoraTiles:
    """The tiles of one batch. upload: brings an array to the device; on a GPU without waiting for the copy."""
    counts = np.diff(np.asarray(starts))
    tile = PREFILL_TILE if len(slots) and int(counts.max()) >= _PREFILL_SEGMENT else DECODE_TILE
    # Exact sizes: outside a graph the host knows the batch, and a launch has no program without work.
    adapter_tiles = int((-(-counts // tile)).sum())
    num_tiles = adapter_tiles + -(-starts[0] // tile)
    table = np.empty(TILE_FIELDS * num_tiles + starts[-1], np.int32)
    fill_table(table, starts, slots, starts[-1], tile)
    return LoraTiles(upload(table), adapter_tiles, num_tiles, tile, is_static=False)


def _capacity(max_tokens: int, max_segments: int, tile: int) -> int:
    """Every run of base rows (before and after the adapters) and every segment may end in a tile that is not full."""
    return min(max_tokens, max_segments + 2 + max_tokens // tile)


def _tiles(
    starts: Sequence[int], slots: Sequence[int], num_rows: int, tile: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(first token, tokens, slot) of each tile, adapters first."""
    bounds = np.asarray(starts, dtype=np.int64)
    # The two runs of base rows, before the adapters and after them (padding), come last: kernels that serve adapters
    # alone never get there, those that must touch every row do.
    begins = np.concatenate([bounds[:-1], [0, bounds[-1]]])
    ends = np.concatenate([bounds[1:], [bounds[0], num_rows]])
    owners = np.concatenate([np.asarray(slots, dtype=np.int64), [-1, -1]])
    per_run = -(-(ends - begins) // tile)
    runs = np.repeat(np.arange(len(per_run)), per_run)
    place = np.arange(len(runs)) - np.repeat(np.cumsum(per_run) - per_run, per_run)
    firsts = begins[runs] + place * tile
    return firsts, np.minimum(ends[runs] - firsts, tile), owners[runs]
