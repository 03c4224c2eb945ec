"""The identity of mixes: canonical, content alone, and readable by an engine."""

from __future__ import annotations

import pytest

from multiflora_adapters.mixes.recipe import Combination, Mix, MixPart, mix_digest, read_mix, versions_in

A, B = "a" * 64, "b" * 64


def both(first: float, second: float) -> Mix:
    return Mix((MixPart(A, first), MixPart(B, second)))


def test_order_does_not_matter_and_weights_do() -> None:
    mixed = mix_digest(both(0.7, 0.5))
    assert mixed == mix_digest(Mix((MixPart(B, 0.5), MixPart(A, 0.7))))
    assert mixed != mix_digest(both(0.5, 0.7))
    assert mixed != mix_digest(both(0.7, 0.5000001))


def test_whole_numbers_are_the_same_weights() -> None:
    assert mix_digest(both(2, -1)) == mix_digest(both(2.0, -1.0))


def test_an_engine_reads_the_parts_back() -> None:
    mix = both(1e-07, -99.5)
    assert read_mix(mix_digest(mix)) == mix
    assert read_mix(A) is None
    assert versions_in(mix_digest(mix)) == tuple(part.digest for part in mix.parts)
    assert (versions_in(A), versions_in(None)) == ((A,), ())


def test_one_part_with_weight_one_is_that_adapter() -> None:
    assert mix_digest(Mix((MixPart(A, 1),))) == A
    half = Mix((MixPart(A, 0.5),))
    assert read_mix(mix_digest(half)) == half


def test_one_part_that_is_pruned_is_another_adapter() -> None:
    pruned = Mix((MixPart(A, 1.0),), "magnitude_prune", 0.5)
    assert read_mix(mix_digest(pruned)) == pruned


@pytest.mark.parametrize("combination", ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "svd"])
def test_how_parts_are_combined_belongs_to_the_identity(combination: Combination) -> None:
    mix = Mix((MixPart(A, 0.7), MixPart(B, 0.5)), combination, 0.25, 7)
    assert read_mix(mix_digest(mix)) == mix
    others = [
        Mix(mix.parts),
        Mix(mix.parts, combination, 0.5, 7),
        Mix(mix.parts, combination, 0.25, 8),
    ]
    assert mix_digest(mix) not in {mix_digest(other) for other in others}


@pytest.mark.parametrize(("combination", "matters"), [("ties", False), ("dare_ties", True), ("dare_linear", True)])
def test_the_order_matters_where_values_are_drawn(combination: Combination, matters: bool) -> None:
    parts = (MixPart(B, 0.7), MixPart(A, 0.5))
    turned = mix_digest(Mix(parts[::-1], combination, 0.5))
    assert (mix_digest(Mix(parts, combination, 0.5)) != turned) == matters
