"""Who owns which rows of the rank pool: first fit over contiguous ranges, merged again when freed. Pure Python."""

from __future__ import annotations

from collections.abc import Collection


class RowAllocator:
    """Hands out contiguous, disjoint ranges of `num_rows` rows."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self._sizes: dict[int, int] = {}

    @property
    def used_rows(self) -> int:
        return sum(self._sizes.values())

    def allocate(self, count: int, at_end: bool = False) -> int | None:
        """The offset of a new range of `count` >= 1 rows: the lowest that fits, with at_end the highest, or None."""
        assert count > 0, "an adapter has at least one rank row"
        gaps = [gap for gap in self._free_ranges(self._sizes) if gap[1] >= count]
        if not gaps:
            return None
        offset = gaps[-1][0] + gaps[-1][1] - count if at_end else gaps[0][0]
        self._sizes[offset] = count
        return offset

    def free(self, offset: int) -> None:
        """Give back the range that starts at `offset`."""
        del self._sizes[offset]

    def would_fit(self, count: int, without: Collection[int]) -> bool:
        """Whether `count` rows fit once the ranges that start at the offsets `without` are freed."""
        remaining = [offset for offset in self._sizes if offset not in without]
        return any(size >= count for _, size in self._free_ranges(remaining))

    def _free_ranges(self, taken: Collection[int]) -> list[tuple[int, int]]:
        """(offset, size) of the gaps between the ranges that start at `taken`, in order."""
        gaps = []
        position = 0
        for offset in sorted(taken):
            if offset > position:
                gaps.append((position, offset - position))
            position = offset + self._sizes[offset]
        if self.num_rows > position:
            gaps.append((position, self.num_rows - position))
        return gaps
