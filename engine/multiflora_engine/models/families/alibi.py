"""The slopes of ALiBi (arXiv:2108.12409): how fast the scores of a head fall with the distance between two tokens."""

from __future__ import annotations


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """Those of the paper: for 2^n heads powers of 2^(-8 / 2^n), for others those of the next smaller 2^n, then every
    other one of the next larger."""
    smaller = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / smaller) for i in range(smaller)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / smaller) for i in range(num_heads - smaller)]
    return tuple(slopes)


def interleaved_slopes(num_heads: int, largest: int = 8) -> tuple[float, ...]:
    """Those of MPT: of the next larger power of two first every other one, then those between, as many as needed.
    largest: the exponent of the smallest slope."""
    larger = 1 << (num_heads - 1).bit_length()
    slopes = [2.0 ** (-largest * (i + 1) / larger) for i in range(larger)]
    return tuple((slopes[1::2] + slopes[::2])[:num_heads] if larger != num_heads else slopes)
