"""Values come out of words and bytes as they went in, whatever their width, number and order."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from multiflora_engine.models.quantisation.packing import look_up_nibbles, unpack_words, words_for


def pack(values: list[int], bits: int) -> list[int]:
    """One stream of bits in whole words, as integers of Python's: the definition."""
    stream = sum(value << (place * bits) for place, value in enumerate(values))
    words = [(stream >> (32 * word)) & 0xFFFFFFFF for word in range(words_for(len(values), bits))]
    return [word - (1 << 32) if word >= 1 << 31 else word for word in words]


@given(st.data(), st.integers(1, 8), st.integers(1, 70))
def test_words_are_one_stream_of_bits(data: st.DataObject, bits: int, count: int) -> None:
    column = st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count)
    columns = [data.draw(column), data.draw(column)]
    words = torch.tensor([pack(values, bits) for values in columns], dtype=torch.int32).T
    assert unpack_words(words, bits, count).T.tolist() == columns


@given(st.permutations(range(8)), st.lists(st.integers(0, 15), min_size=16, max_size=16))
def test_values_that_stand_out_of_order(order: list[int], values: list[int]) -> None:
    stored = [0] * 16
    for index, value in enumerate(values):
        stored[index // 8 * 8 + order[index % 8]] = value
    words = torch.tensor([pack(stored, 4)], dtype=torch.int32).T
    assert unpack_words(words, 4, 16, order).T.tolist() == [values]


def test_values_of_nibbles() -> None:
    packed = torch.tensor([[0x21, 0xF0]], dtype=torch.uint8)
    table = torch.arange(16.0) / 2
    assert look_up_nibbles(packed, table, low_first=True).tolist() == [[0.5, 1.0, 0.0, 7.5]]
    assert look_up_nibbles(packed, table, low_first=False).tolist() == [[1.0, 0.5, 7.5, 0.0]]
    codes = torch.arange(16, dtype=torch.uint8) + 100
    assert look_up_nibbles(packed, codes, low_first=True).tolist() == [[101, 102, 100, 115]]
