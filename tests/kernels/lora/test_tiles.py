"""The table of tiles: every row in exactly one, adapters first, in time, and refilled in place."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multiflora_kernels.lora.tiles import (
    DECODE_TILE,
    PREFILL_TILE,
    TILE_FIELDS,
    build_tiles,
    fill_table,
    static_tiles,
    table_entries,
)


def owners(table: np.ndarray, num_rows: int, tile: int) -> list[int]:
    """The slot of every row, as the tiles say it; checks that adapters come first and nothing comes twice."""
    slots, kinds = [-2] * num_rows, list[int]()
    for first, count, slot, *_ in table[: len(table) - num_rows].reshape(-1, TILE_FIELDS).tolist():
        kinds.append(2 if count == 0 else 1 if slot < 0 else 0)
        assert count <= tile
        for row in range(first, first + count):
            assert slots[row] == -2
            slots[row] = slot
    assert kinds == sorted(kinds)
    assert slots == table[len(table) - num_rows :].tolist()
    return slots


def expected_owners(starts: list[int], slots: list[int], num_rows: int) -> list[int]:
    counts = np.diff(starts).tolist()
    middle = [slot for slot, count in zip(slots, counts, strict=True) for _ in range(count)]
    return [-1] * starts[0] + middle + [-1] * (num_rows - starts[-1])


runs = st.lists(st.integers(0, 70), max_size=9)


@given(st.integers(0, 40), runs, st.integers(0, 40))
def test_every_row_is_in_one_tile(base, counts, padding):
    starts, slots = np.cumsum([base, *counts]).tolist(), list(range(7, 7 + len(counts)))
    num_rows = starts[-1] + padding
    table = np.full(table_entries(num_rows, len(slots)), -9, np.int32)
    fill_table(table, starts, slots, num_rows)
    assert owners(table, num_rows, DECODE_TILE) == expected_owners(starts, slots, num_rows)
    tiles = build_tiles(starts, slots, torch.from_numpy)
    assert owners(tiles.table.numpy(), starts[-1], tiles.tile) == expected_owners(starts, slots, starts[-1])
    assert (
        tiles.max_adapter_tiles == (tiles.table[: TILE_FIELDS * tiles.max_tiles].view(-1, TILE_FIELDS)[:, 2] >= 0).sum()
    )
    assert tiles.row_slots.tolist() == expected_owners(starts, slots, starts[-1])
    for filled, rows in ((table, num_rows), (tiles.table.numpy(), starts[-1])):
        fields = filled[: len(filled) - rows].reshape(-1, TILE_FIELDS)
        assert (fields[:, 3] == (fields[:, 2] >= 0).sum()).all(), "each says how many are adapters'"
        assert (fields[:, 4] == (fields[:, 1] > 0).sum()).all(), "and how many there are"


@pytest.mark.parametrize("counts", [[1, 17], [17, 17], [1], [17], [1, 1, 33]])
def test_a_graph_visits_the_tiles_of_the_worst_batch(counts):
    """Each segment one token into its last tile: no batch of so many tokens and segments has more of them."""
    starts, slots = np.cumsum([0, *counts]).tolist(), list(range(len(counts)))
    table = np.zeros(table_entries(starts[-1], len(slots)), np.int32)
    fill_table(table, starts, slots, starts[-1])
    used = int((table[: len(table) - starts[-1]].reshape(-1, TILE_FIELDS)[:, 2] >= 0).sum())
    assert used == sum(-(-count // DECODE_TILE) for count in counts)
    assert static_tiles(torch.from_numpy(table), starts[-1], len(slots)).max_adapter_tiles >= used


def test_long_segments_get_large_tiles():
    assert build_tiles([0, 4, 20], [1, 2], torch.from_numpy).tile == DECODE_TILE
    assert build_tiles([0, 4, 512], [1, 2], torch.from_numpy).tile == PREFILL_TILE


def test_a_static_table_takes_whatever_fits_and_nothing_else():
    table = torch.zeros(table_entries(64, 8), dtype=torch.int32)
    tiles = static_tiles(table, 64, 8)
    host = np.zeros(len(table), np.int32)
    for starts in ([64], [0, *range(57, 65)], [0, 64], [1, 2, 3, 4, 5, 6, 7, 8, 63]):
        fill_table(host, starts, list(range(len(starts) - 1)), 64)
        assert (host[:-64].reshape(-1, TILE_FIELDS)[tiles.max_adapter_tiles :, 2] < 0).all()
        assert owners(host, 64, DECODE_TILE) == expected_owners(starts, list(range(len(starts) - 1)), 64)
    with pytest.raises(AssertionError, match="more tokens or segments"):
        fill_table(host, list(range(65)), list(range(64)), 64)


def test_a_large_step_costs_less_than_half_a_millisecond():
    starts, slots = np.linspace(0, 8192, 65).astype(int).tolist(), list(range(64))
    best = float("inf")
    for _ in range(20):
        begin = time.thread_time()
        build_tiles(starts, slots, torch.from_numpy)
        best = min(best, time.thread_time() - begin)
    assert best < 0.5e-3
