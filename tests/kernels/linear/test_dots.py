"""Products of narrow values by the processor's instructions, at every row count where a kernel changes its shape."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.linear.cases import int8_of

from multiflora_kernels.linear.dots import bfloat16_product, byte_product, multiplies_bfloat16, multiplies_bytes
from multiflora_kernels.linear.integer import IntegerWay, integer_linear, rounded_reference
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix

ROWS = [0, 1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 49, 64, 70]


def bfloat16_matrix(columns: int, k: int) -> NarrowMatrix:
    matrix = NarrowMatrix(torch.randn(columns, k).bfloat16())
    if not multiplies_bfloat16(matrix):
        pytest.skip("no instruction for pairs of bfloat16 here")
    return matrix


def byte_matrix(columns: int, k: int) -> NarrowMatrix:
    matrix = int8_of(torch.randn(columns, k)).matrix.with_sums()
    if not multiplies_bytes(matrix):
        pytest.skip("no instruction for quads of bytes here")
    return matrix


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("k", "columns"), [(64, 48), (96, 37), (1088, 21), (32, 1)])
def test_bfloat16_against_float64(rows, k, columns):
    w, x = bfloat16_matrix(columns, k), torch.randn(rows, k + 8)[:, 3 : k + 3]
    y = bfloat16_product(x, w)
    assert (y.dtype, y.shape) == (torch.float32, (rows, columns))
    assert torch.equal(y, y.bfloat16().float())
    expected = x.bfloat16().double() @ w.codes.double().T
    # Half a unit of the rounding, and as much where a sum in another order falls on another side of a border.
    torch.testing.assert_close(y.double(), expected, rtol=2.0**-7, atol=1e-4 * k**0.5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("k", "columns"), [(64, 48), (128, 37), (1088, 21), (192, 1)])
def test_bytes_against_exact_sums(rows, k, columns):
    w, x, bias = byte_matrix(columns, k), torch.randn(rows, k + 8)[:, 3 : k + 3], torch.randn(columns)
    codes, scales = rounded_reference(x, 127)
    expected = (codes.double() @ w.codes.double().T) * scales.double() * w.scales.double().T
    # A value halfway between two codes may become either.
    step = float((scales * w.scales.T).max() * 128) if rows else 0.0
    torch.testing.assert_close(byte_product(x, w, None, 127).double(), expected, rtol=1e-5, atol=1.01 * step)
    torch.testing.assert_close(byte_product(x, w, bias, 127), byte_product(x, w, None, 127) + bias)


@pytest.mark.parametrize("rows", [1, 8, 9, 40])
def test_bytes_are_the_products_of_integer_linear_bit_for_bit(rows):
    """A row's product is the same with few rows, which are multiplied here, and with many, which are a library's."""
    w, x = byte_matrix(40, 256), torch.randn(200, 256)
    way = IntegerWay("bytes", 1)
    assert torch.equal(integer_linear(x[:rows], w, None, way), integer_linear(x, w, None, way)[:rows])


def test_the_largest_sums_of_bytes_are_exact():
    k = 65536
    byte_matrix(1, 64)
    w = NarrowMatrix(torch.full((17, k), -128, dtype=torch.int8), torch.ones(17, 1)).with_sums()
    x = torch.full((9, k), -3.0)
    x[::2] = 3.0
    for rows in (9, 4):
        expected = (x[:rows].double().sum(1, keepdim=True) * -128).float().expand(rows, 17)
        torch.testing.assert_close(byte_product(x[:rows], w, None, 127), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rows", [3, 20])
def test_one_bad_row_stays_alone(rows):
    x = torch.randn(rows, 64)
    x[1, 3] = float("nan")
    for y in (bfloat16_product(x, bfloat16_matrix(40, 64)), byte_product(x, byte_matrix(40, 64), None, 127)):
        assert torch.isnan(y[1]).all()
        assert torch.isfinite(torch.cat((y[:1], y[2:]))).all()


@pytest.mark.parametrize("rows", [1, 6, 64])
def test_threads_do_not_change_a_bit(rows):
    x, pairs, quads = torch.randn(rows, 256), bfloat16_matrix(530, 256), byte_matrix(530, 256)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(torch.cat((bfloat16_product(x, pairs), byte_product(x, quads, None, 127))))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_rows_that_do_not_fill_vectors_are_for_others():
    assert not multiplies_bfloat16(NarrowMatrix(torch.zeros(4, 48).bfloat16()))
    assert not multiplies_bfloat16(NarrowMatrix(torch.zeros(4, 128).bfloat16()[:, :64]))
    assert not multiplies_bytes(NarrowMatrix(torch.zeros(4, 96, dtype=torch.int8), torch.ones(4, 1)).with_sums())
    assert not multiplies_bytes(NarrowMatrix(torch.zeros(4, 64, dtype=torch.int8), torch.ones(4, 1)))
