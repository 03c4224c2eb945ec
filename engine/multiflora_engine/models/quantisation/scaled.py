"""Eight-bit integers and floats with scales: compressed-tensors' int8 and FP8, DeepSeek's FP8, bitsandbytes' int8."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from multiflora_engine.models.quantisation.plain import read_rows
from multiflora_engine.models.quantisation.quantised_tensor import FLOATS, IntegerRows, QuantisedTensor
from multiflora_engine.models.quantisation.settings import ScaledSettings
from multiflora_kernels.linear.quantised import IntegerForm

_FLOAT_TYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}

# bitsandbytes stores the largest value of a row, which stands for 127.
_SCALES = {".weight_scale": 1.0, ".weight_scale_inv": 1.0, ".SCB": 1 / 127}


@dataclass(frozen=True)
class ScaledTensor(QuantisedTensor):
    """`.weight`: [N, K] of eight bits. `.weight_scale`, `.weight_scale_inv` or `.SCB`: one scale, one for each output
    ([N] or [N, 1]), for each group of an output's inputs ([N, G]), or for each block ([N / rows, K / columns]).

    Semantics: W[n, k] = (q[n, k] - zero) * scale; `.weight_zero_point`, if any, has the scale's shape.
    """

    settings: ScaledSettings

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix_shape(".weight")

    def check(self) -> None:
        outputs, inputs = self.shape
        self.expect(".weight", self.settings.dtypes, self.part(".weight").shape)
        if self.settings.block is not None:
            rows, columns = self.settings.block
            shapes: list[tuple[int, ...]] = [(-(-outputs // rows), -(-inputs // columns))]
        elif self.settings.group_size is not None:
            shapes = [(outputs, self.num_groups(".weight", inputs, self.settings.group_size))]
        else:
            shapes = [(outputs, 1), (outputs,), (1,), (1, 1), ()]
        self.expect(self._scale_name, FLOATS, *shapes)
        if ".weight_zero_point" in self.parts:
            self.expect(".weight_zero_point", ("I8",), self.part(self._scale_name).shape)
        if ".weight_format" in self.parts and self.read(".weight_format").any():
            raise self.damaged(".weight_format", "is not 0: the weight's rows are out of order, as for some GPUs")

    def pieces(self) -> Iterator[torch.Tensor]:
        scales = self._matrix(self._scale_name) * _SCALES[self._scale_name]
        zeros = self._matrix(".weight_zero_point") if ".weight_zero_point" in self.parts else None
        rows, columns = self._block(scales)
        groups = torch.arange(self.shape[1]) // columns
        first = 0
        for stored in read_rows(self.part(".weight")):
            of_rows = torch.arange(first, first + len(stored)) // rows
            values = stored.float()
            if zeros is not None:
                values -= zeros[of_rows][:, groups]
            values *= scales[of_rows][:, groups]
            yield values
            first += len(stored)

    @property
    def form(self) -> IntegerForm | None:
        float_type = _FLOAT_TYPES.get(self.part(".weight").dtype)
        has_zeros = ".weight_zero_point" in self.parts
        if float_type is None:
            return None if self.settings.block is not None else IntegerForm(8, self.settings.group_size, has_zeros)
        # The last of a row's blocks may be narrower than the others.
        size = self.settings.group_size if self.settings.block is None else self.settings.block[1]
        size = None if size == self.shape[1] else size
        return None if has_zeros or self.shape[1] % (size or 1) else IntegerForm(8, size, float_type=float_type)

    def integers(self) -> Iterator[IntegerRows]:
        outputs, zeros = self.shape[0], None
        scales = self._matrix(self._scale_name) * _SCALES[self._scale_name]
        if self.settings.block is not None:
            scales = scales.repeat_interleave(self.settings.block[0], dim=0)[:outputs]
        scales = scales.expand(outputs, -1)
        if ".weight_zero_point" in self.parts:
            zeros = (self._matrix(".weight_zero_point") + 128).expand(outputs, -1)
        first = 0
        for stored in read_rows(self.part(".weight")):
            end = first + len(stored)
            own = None if zeros is None else zeros[first:end]
            if stored.dtype != torch.int8 and not torch.isfinite(stored.float()).all():
                raise self.damaged(".weight", "has values that are not finite")
            codes = stored.view(torch.uint8) ^ (128 if stored.dtype == torch.int8 else 0)
            yield IntegerRows(codes, scales[first:end], own)
            first = end

    @property
    def _scale_name(self) -> str:
        return next((name for name in _SCALES if name in self.parts), ".weight_scale")

    def _matrix(self, ending: str) -> torch.Tensor:
        values = self.read(ending).float()
        return values if values.dim() == 2 else values.reshape(-1, 1)

    def _block(self, scales: torch.Tensor) -> tuple[int, int]:
        """Outputs and inputs that share a scale."""
        if self.settings.block is not None:
            return self.settings.block
        outputs, inputs = self.shape
        return (outputs if len(scales) == 1 else 1), -(-inputs // scales.shape[1])
