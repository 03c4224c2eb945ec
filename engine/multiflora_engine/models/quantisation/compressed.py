"""compressed-tensors: integers packed along the inputs, and NVFP4. Its eight-bit forms are plainly scaled (scaled.py).

Source of the format: https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from multiflora_engine.models.quantisation.packing import E2M1, look_up_nibbles, unpack_words, words_for
from multiflora_engine.models.quantisation.quantised_tensor import (
    FLOATS,
    IntegerRows,
    IntegerTensor,
    QuantisedTensor,
)
from multiflora_engine.models.quantisation.settings import Nvfp4Settings, PackedSettings
from multiflora_kernels.linear.quantised import IntegerForm

_NVFP4_GROUP = 16


@dataclass(frozen=True)
class PackedTensor(IntegerTensor):
    """`.weight_packed`: int32 [N, K * bits / 32], packed along K. `.weight_shape`: (N, K). `.weight_scale`: [N, G],
    with G = 1 for whole rows. `.weight_zero_point`: int32 [N * bits / 32, G], packed along N. `.weight_g_idx`: [K],
    each input's group. Packed values count from -2^(bits - 1) on.

    Semantics: W[n, k] = (q[n, k] - zero[n, g(k)]) * scale[n, g(k)].
    """

    settings: PackedSettings

    @property
    def shape(self) -> tuple[int, int]:
        self.expect(".weight_shape", ("I64", "I32"), (2,))
        outputs, inputs = self.read(".weight_shape").tolist()
        return int(outputs), int(inputs)

    def check(self) -> None:
        bits, (outputs, inputs) = self.settings.bits, self.shape
        if min(outputs, inputs) < 1:
            raise self.damaged(".weight_shape", f"is {outputs}, {inputs}")
        self.expect(".weight_packed", ("I32",), (outputs, words_for(inputs, bits)))
        groups = self.num_groups(".weight_packed", inputs, self.settings.group_size)
        self.expect(".weight_scale", FLOATS, (outputs, groups))
        if not self.settings.is_symmetric:
            self.expect(".weight_zero_point", ("I32",), (words_for(outputs, bits), groups))
        if ".weight_g_idx" in self.parts:
            self.expect(".weight_g_idx", ("I32", "I64"), (inputs,))
            self.check_groups(".weight_g_idx", groups)

    @property
    def bits(self) -> int:
        return self.settings.bits

    @property
    def form(self) -> IntegerForm | None:
        return self.form_with(self.settings.group_size, has_zeros=not self.settings.is_symmetric)

    def groups(self) -> torch.Tensor:
        return self.groups_of_inputs(self.settings.group_size, ".weight_g_idx")

    def integers(self) -> Iterator[IntegerRows]:
        outputs, inputs = self.shape
        packed, scales, zeros = self.read(".weight_packed"), self.read(".weight_scale").float(), None
        if not self.settings.is_symmetric:
            zeros = unpack_words(self.read(".weight_zero_point"), self.bits, outputs)
        for first, end in self.row_ranges():
            codes = unpack_words(packed[first:end].T, self.bits, inputs).T
            yield IntegerRows(codes, scales[first:end], None if zeros is None else zeros[first:end])


@dataclass(frozen=True)
class Nvfp4Tensor(QuantisedTensor):
    """`.weight_packed`: uint8 [N, K / 2], four-bit floats, the low half first. `.weight_scale`: FP8 [N, K / 16].
    `.weight_global_scale`: [1].

    Semantics: W[n, k] = q[n, k] * scale[n, k // 16] / global_scale.
    """

    settings: Nvfp4Settings

    @property
    def shape(self) -> tuple[int, int]:
        outputs, count = self.matrix_shape(".weight_packed")
        return outputs, count * 2

    def check(self) -> None:
        outputs, inputs = self.shape
        self.expect(".weight_packed", ("U8",), (outputs, inputs // 2))
        self.expect(".weight_scale", ("F8_E4M3",), (outputs, self.num_groups(".weight_packed", inputs, _NVFP4_GROUP)))
        self.expect(".weight_global_scale", ("F32",), (1,), ())
        if not self.read(".weight_global_scale").item() > 0:
            raise self.damaged(".weight_global_scale", "is not positive")

    def pieces(self) -> Iterator[torch.Tensor]:
        packed, table = self.read(".weight_packed"), torch.tensor(E2M1)
        scales = self.read(".weight_scale").float() / self.read(".weight_global_scale").item()
        for first, end in self.row_ranges():
            values = look_up_nibbles(packed[first:end], table, low_first=True)
            yield values * scales[first:end].repeat_interleave(_NVFP4_GROUP, dim=1)
