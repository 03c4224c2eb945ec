"""Lines against plain lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from multiflora_engine.cache.block_lines import NONE, BlockLinks, Line


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 1))))
def test_against_lists(actions: list[tuple[int, int]]) -> None:
    """A block joins a line, or leaves the one in which it is."""
    links, lines = BlockLinks(8), [Line(), Line()]
    lists: list[list[int]] = [[], []]
    for block_id, number in actions:
        inside = next((place for place in (0, 1) if block_id in lists[place]), None)
        if inside is None:
            links.append(lines[number], block_id)
            lists[number].append(block_id)
        else:
            links.remove(lines[inside], block_id)
            lists[inside].remove(block_id)
        for line, model in zip(lines, lists, strict=True):
            assert line.length == len(model)
            assert (line.oldest, line.newest) == ((model[0], model[-1]) if model else (NONE, NONE))
    for line, model in zip(lines, lists, strict=True):
        emptied = []
        while line.length:
            emptied.append(line.oldest)
            links.remove(line, line.oldest)
        assert emptied == model
