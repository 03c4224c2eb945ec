"""GPTQ: integers packed along the inputs, with a scale and a zero point for each group of inputs and each output.

Source of the format: AutoGPTQ and GPTQModel, which call its two versions gptq and gptq_v2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from multiflora_engine.models.quantisation.packing import unpack_words, words_for
from multiflora_engine.models.quantisation.quantised_tensor import FLOATS, IntegerRows, IntegerTensor
from multiflora_engine.models.quantisation.settings import GptqSettings
from multiflora_kernels.linear.quantised import IntegerForm


@dataclass(frozen=True)
class GptqTensor(IntegerTensor):
    """`.qweight`: int32 [K * bits / 32, N], packed along K. `.qzeros`: int32 [G, N * bits / 32], packed along N.
    `.scales`: [G, N]. `.g_idx`: int32 [K], each input's group; without it groups follow one another.

    Semantics: W[n, k] = (q[k, n] - zero[g(k), n]) * scale[g(k), n]; version 1 stores zero - 1.
    """

    settings: GptqSettings

    @property
    def shape(self) -> tuple[int, int]:
        words, outputs = self.matrix_shape(".qweight")
        return outputs, words * 32 // self.settings.bits

    def check(self) -> None:
        bits = self.settings.bits
        outputs, inputs = self.shape
        groups = self.num_groups(".qweight", inputs, self.settings.group_size)
        self.expect(".qweight", ("I32",), (words_for(inputs, bits), outputs))
        self.expect(".scales", FLOATS, (groups, outputs))
        self.expect(".qzeros", ("I32",), (groups, words_for(outputs, bits)))
        if ".g_idx" in self.parts or self.settings.desc_act:
            self.expect(".g_idx", ("I32",), (inputs,))
            self.check_groups(".g_idx", groups)

    @property
    def bits(self) -> int:
        return self.settings.bits

    @property
    def form(self) -> IntegerForm | None:
        return self.form_with(self.settings.group_size, has_zeros=True)

    def groups(self) -> torch.Tensor:
        return self.groups_of_inputs(self.settings.group_size, ".g_idx")

    def integers(self) -> Iterator[IntegerRows]:
        outputs, inputs = self.shape
        packed, scales = self.read(".qweight"), self.read(".scales").float().T
        zeros = unpack_words(self.read(".qzeros").T, self.bits, outputs)
        if not self.settings.is_v2:
            # 16 is no four-bit zero point: what wraps around stood for 0.
            zeros = (zeros + 1) & ((1 << self.bits) - 1)
        for first, end in self.row_ranges():
            codes = unpack_words(packed[:, first:end], self.bits, inputs).T
            yield IntegerRows(codes, scales[first:end], zeros[first:end])
