"""Products with weights of 4 and 8 bits in Triton against float64: interpreted at small shapes, compiled on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.kernels.linear.cases import FORMS, random_integers

from multiflora_kernels.linear.narrow import narrow_linear
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.linear.narrow_triton import narrow_linear_triton
from multiflora_kernels.linear.quantised import INT8, IntegerForm

ROUNDED_GROUPS = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Of the largest result: scaled values are rounded, and so is what comes out."""


def to(w: NarrowMatrix, device: torch.device) -> NarrowMatrix:
    moved = {name: part.to(device) for name in ("scales", "zeros", "table") if (part := getattr(w, name)) is not None}
    return replace(w, codes=w.codes.to(device), **moved)


def check(y: torch.Tensor, expected: torch.Tensor) -> None:
    assert y.shape == expected.shape
    assert torch.isfinite(y).all()
    error = (y.cpu().double() - expected).abs().max().item()
    assert error <= ROUNDED_GROUPS[y.dtype] * max(1.0, expected.abs().max().item()), error


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("dtype", "rows"), [(torch.float32, 3), (torch.bfloat16, 1), (torch.bfloat16, 17)])
def test_every_form(kernel_device, form, dtype, rows):
    """Columns and inputs that fill no tile."""
    weight, values = random_integers(form, 70, 160 if form.group_size == 32 else 192)
    x, bias = torch.randn(rows, values.shape[1]).to(dtype), torch.randn(70).to(dtype)
    y = narrow_linear_triton(x.to(kernel_device), to(weight.matrix, kernel_device), bias.to(kernel_device))
    check(y, x.double() @ values.T + bias.double())


@pytest.mark.parametrize(
    ("dtype", "rows"), [(torch.float32, 65), (torch.float16, 16), (torch.float16, 64), (torch.bfloat16, 130)]
)
def test_every_tile(kernel_device, dtype, rows):
    weight, values = random_integers(IntegerForm(4, 32, has_zeros=True), 33, 96)
    x = torch.randn(rows, 96).to(dtype)
    check(narrow_linear_triton(x.to(kernel_device), to(weight.matrix, kernel_device), None), x.double() @ values.T)


@pytest.mark.parametrize("k", [7, 50, 130])
def test_eight_bits_of_any_number_of_inputs(kernel_device, k):
    weight, values = random_integers(INT8, 25, k)
    x = torch.randn(5, k)
    check(narrow_linear_triton(x.to(kernel_device), to(weight.matrix, kernel_device), None), x.double() @ values.T)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("k", [1056, 1600])
def test_parts_of_the_inputs_are_added_in_their_order(kernel_device, k, has_bias):
    """Few columns leave processors idle: K is cut, and the same call has the same bits."""
    weight, values = random_integers(IntegerForm(4, 32), 20, k)
    x, matrix = torch.randn(2, k).to(kernel_device), to(weight.matrix, kernel_device)
    bias = torch.randn(20).to(kernel_device) if has_bias else None
    y = narrow_linear_triton(x, matrix, bias)
    check(y, x.cpu().double() @ values.T + (0 if bias is None else bias.cpu().double()))
    assert torch.equal(y, narrow_linear_triton(x, matrix, bias))


def test_codes_of_one_scale_lose_nothing(kernel_device):
    """Their products are exact in half precision: an input of one value gives the weights themselves, rounded."""
    weight, values = random_integers(INT8, 40, 64)
    y = narrow_linear_triton(torch.eye(64).half().to(kernel_device), to(weight.matrix, kernel_device), None)
    assert torch.equal(y.cpu(), values.T.float().half())


def test_a_row_keeps_its_bits_whatever_its_neighbours_are(kernel_device):
    weight, _ = random_integers(IntegerForm(4, 32), 40, 64)
    matrix = to(weight.matrix, kernel_device)
    x = torch.randn(9, 64)
    alone = narrow_linear_triton(x[4:5].to(kernel_device), matrix, None)
    x[7, 3] = float("nan")
    y = narrow_linear_triton(x.to(kernel_device), matrix, None)
    assert torch.equal(y[4:5], alone)
    assert torch.isnan(y[7]).all()


def test_views(kernel_device):
    """Some rows of a weight, some columns of a wider x, and no rows at all."""
    weight, values = random_integers(IntegerForm(4, 32), 40, 128)
    matrix = to(weight.matrix, kernel_device).rows(3, 36)
    for x in (torch.randn(5, 300)[:, 20:148], torch.randn(5, 256)[:, ::2], torch.randn(0, 128)):
        if len(x):
            check(narrow_linear_triton(x.to(kernel_device), matrix, None), x.double() @ values[3:36].T)
        else:
            assert narrow_linear_triton(x.to(kernel_device), matrix, None).shape == (0, 33)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [1, 16, 33, 500])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_on_a_gpu(form, rows, dtype):
    """Fresh random weights at serving size, by the dispatcher."""
    torch.seed()
    weight, values = random_integers(form, 4096 + 24, 3072)
    x, bias = torch.randn(rows, 3072).to(dtype).cuda(), torch.randn(len(values)).to(dtype).cuda()
    y = narrow_linear(x, to(weight.matrix, torch.device("cuda")), bias)
    check(y, (x.double() @ values.cuda().T + bias.double()).cpu())
