"""Which tiles a GPU is given."""

from __future__ import annotations

import pytest

from multiflora_kernels.runtime.card import capability_class


@pytest.mark.parametrize(("kib", "name"), [(227, 90), (228, 90), (164, 80), (163, 80), (99, 86), (100, 86), (64, 86)])
def test_tiles_follow_what_fits_into_a_multiprocessor(kib, name):
    """H100 and B200; A100; RTX 3090, A10, L4, RTX 4090 and RTX 5090, whatever the number of their generation."""
    assert capability_class(kib << 10) == name
