"""AWQ in its gemm layout: four-bit integers packed along the outputs, out of order, with scales and zero points.

Source of the format: AutoAWQ. Its other layout, gemv, is refused when config.json is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from multiflora_engine.models.quantisation.packing import unpack_words
from multiflora_engine.models.quantisation.quantised_tensor import FLOATS, IntegerRows, IntegerTensor
from multiflora_engine.models.quantisation.settings import AwqSettings
from multiflora_kernels.linear.quantised import IntegerForm

# The nibble of a word that holds each of its eight outputs.
_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True)
class AwqTensor(IntegerTensor):
    """`.qweight`: int32 [K, N / 8]. `.qzeros`: int32 [G, N / 8]. `.scales`: [G, N].

    Semantics: W[n, k] = (q[k, n] - zero[g, n]) * scale[g, n], g = k // group_size.
    """

    settings: AwqSettings

    @property
    def shape(self) -> tuple[int, int]:
        inputs, words = self.matrix_shape(".qweight")
        return words * 8, inputs

    def check(self) -> None:
        outputs, inputs = self.shape
        groups = self.num_groups(".qweight", inputs, self.settings.group_size)
        self.expect(".qweight", ("I32",), (inputs, outputs // 8))
        self.expect(".scales", FLOATS, (groups, outputs))
        self.expect(".qzeros", ("I32",), (groups, outputs // 8))

    @property
    def bits(self) -> int:
        return 4

    @property
    def form(self) -> IntegerForm:
        return IntegerForm(4, self.settings.group_size, has_zeros=True)

    def groups(self) -> torch.Tensor:
        return self.groups_of_inputs(self.settings.group_size)

    def integers(self) -> Iterator[IntegerRows]:
        outputs, _ = self.shape
        packed, scales = self.read(".qweight"), self.read(".scales").float().T
        zeros = unpack_words(self.read(".qzeros").T, 4, outputs, _ORDER)
        for first, end in self.row_ranges(multiple=8):
            codes = unpack_words(packed[:, first // 8 : end // 8].T, 4, end - first, _ORDER)
            yield IntegerRows(codes, scales[first:end], zeros[first:end])
