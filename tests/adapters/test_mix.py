"""The identity of mixes: canonical, content alone, and readable by an engine."""

from __future__ import annotations

from multiflora_adapters.mix import MixPart, mix_digest, mix_parts

A, B = "a" * 64, "b" * 64


def test_order_does_not_matter_and_weights_do() -> None:
    mixed = mix_digest([MixPart(A, 0.7), MixPart(B, 0.5)])
    assert mixed == mix_digest([MixPart(B, 0.5), MixPart(A, 0.7)])
    assert mixed != mix_digest([MixPart(A, 0.5), MixPart(B, 0.7)])
    assert mixed != mix_digest([MixPart(A, 0.7), MixPart(B, 0.5000001)])


def test_whole_numbers_are_the_same_weights() -> None:
    assert mix_digest([MixPart(A, 2), MixPart(B, -1)]) == mix_digest([MixPart(A, 2.0), MixPart(B, -1.0)])


def test_an_engine_reads_the_parts_back() -> None:
    parts = [MixPart(A, 1e-07), MixPart(B, -99.5)]
    assert mix_parts(mix_digest(parts)) == parts
    assert mix_parts(A) is None


def test_one_part_with_weight_one_is_that_adapter() -> None:
    assert mix_digest([MixPart(A, 1)]) == A
    assert mix_parts(mix_digest([MixPart(A, 0.5)])) == [MixPart(A, 0.5)]
