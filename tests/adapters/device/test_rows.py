"""The row allocator against a model of who owns which row."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from multiflora_adapters.device.rows import RowAllocator

ROWS = 24


class RowsMachine(RuleBasedStateMachine):
    ranges = Bundle("ranges")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = RowAllocator(ROWS)
        self.owned: dict[int, int] = {}

    @rule(target=ranges, count=st.integers(1, ROWS + 2), at_end=st.booleans())
    def allocate(self, count, at_end):
        gaps = [start for start in range(ROWS - count + 1) if self._is_free(start, count)]
        offset = self.allocator.allocate(count, at_end)
        assert offset == ((max(gaps) if at_end else min(gaps)) if gaps else None)
        if offset is not None:
            self.owned[offset] = count
        return offset

    @rule(offset=consumes(ranges))
    def free(self, offset):
        if offset is not None:
            self.allocator.free(offset)
            del self.owned[offset]

    @rule(count=st.integers(1, ROWS + 2), data=st.data())
    def would_fit(self, count, data):
        without = data.draw(st.sets(st.sampled_from(sorted(self.owned)))) if self.owned else set()
        expected = any(self._is_free(start, count, without) for start in range(ROWS - count + 1))
        assert self.allocator.would_fit(count, without) == expected

    @invariant()
    def counts(self):
        assert self.allocator.used_rows == sum(self.owned.values())

    def _is_free(self, start, count, without=frozenset()):
        taken = {row for o, size in self.owned.items() if o not in without for row in range(o, o + size)}
        return taken.isdisjoint(range(start, start + count))


RowsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRows = RowsMachine.TestCase
