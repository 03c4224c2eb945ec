"""Quantised weights of every form that a checkpoint's integers may have, with what they stand for."""

from __future__ import annotations

import torch

from multiflora_kernels.linear.quantised import INT8, IntegerForm, QuantisedWeight

CPU = torch.device("cpu")
FORMS = [
    IntegerForm(4, 32, has_zeros=True),
    IntegerForm(4, 64),
    IntegerForm(4),
    IntegerForm(3, 32),
    IntegerForm(2, 32, has_zeros=True),
    IntegerForm(8, 32, has_zeros=True),
    IntegerForm(8),
    IntegerForm(5),
    IntegerForm(4, 64, table=tuple((code - 7.3) ** 3 / 100 for code in range(16))),
    IntegerForm(8, 32, float_type=torch.float8_e4m3fn),
    IntegerForm(8, float_type=torch.float8_e4m3fn),
    IntegerForm(8, float_type=torch.float8_e5m2),
]


def int8_of(weight: torch.Tensor) -> QuantisedWeight:
    """The nearest one with a scale for each output."""
    quantised = QuantisedWeight.empty(INT8, (weight.shape[0], weight.shape[1]), weight.dtype, CPU)
    quantised.quantise_(0, weight)
    return quantised


def random_integers(form: IntegerForm, rows: int, k: int) -> tuple[QuantisedWeight, torch.Tensor]:
    """(the weight, its values in float64, of about the size that a model's have)."""
    top, groups = 1 << form.bits, k // (form.group_size or k)
    codes = torch.randint(top, (rows, k), dtype=torch.uint8)
    if form.float_type is not None:
        codes &= 0xFB if form.float_type == torch.float8_e5m2 else 0xFE  # without infinities and NaN
        codes[(codes & 0x7C) == 0x7C] = 0x83
    scales = (torch.rand(rows, groups) + 0.5) / top
    zeros = torch.randint(top, (rows, groups), dtype=torch.uint8) if form.has_zeros else None
    weight = QuantisedWeight.empty(form, (rows, k), torch.float32, CPU)
    weight.store_(0, codes, scales, zeros)
    is_plain = form.table is None and form.float_type is None
    middle = torch.tensor(top / 2 if is_plain else 0.0) if zeros is None else zeros.double()[..., None]
    values = (meant(form, codes).view(rows, groups, -1) - middle) * scales.double()[..., None]
    return weight, values.flatten(1)


def meant(form: IntegerForm, codes: torch.Tensor) -> torch.Tensor:
    """float64, before zero points."""
    if form.table is not None:
        return torch.tensor(form.table, dtype=torch.float32)[codes.int()].double()
    return codes.double() if form.float_type is None else codes.view(form.float_type).double()
