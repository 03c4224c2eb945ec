"""Products of rounded activations are those of the values that they stand for, in whatever way they are made."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.linear.cases import int8_of

from multiflora_kernels.linear import quantised
from multiflora_kernels.linear.integer import IntegerWay, fits_integers, integer_linear, rounded_reference
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.linear.quantised import INT8, W8A8, QuantisedWeight
from multiflora_kernels.runtime import native as native_library

WAYS = [IntegerWay("words", 1), IntegerWay("bytes", 1), IntegerWay("words", 4), IntegerWay("bytes", 4)]


@pytest.fixture(params=WAYS, ids=str)
def way(request):
    if request.param == WAYS[0] and native_library.library() is None:
        pytest.skip(native_library.native_status())
    return request.param


def rounded(x, way):
    codes, scales = rounded_reference(x.float(), way.largest_code(x.shape[1]))
    return codes.double() * scales.double()


@pytest.mark.parametrize("rows", [0, 1, 3, 6, 13, 243])
@pytest.mark.parametrize(("k", "columns"), [(64, 48), (50, 37), (1030, 21), (7, 1)])
def test_against_float64(near, way, rows, k, columns):
    if way.kind == "bytes":
        rows = min(rows, 20)  # one product after the other, where the processor has no instruction
    x, bias = torch.randn(rows, k), torch.randn(columns)
    weight = int8_of(torch.randn(columns, k))
    values = weight.dequantised_rows(0, columns).double()
    for given in (None, bias):
        y = integer_linear(x, weight.matrix, given, way)
        expected = rounded(x, way) @ values.T + (0 if given is None else given.double())
        # A value halfway between two codes may become either: one code of one input.
        step = values.abs().amax() * (x.abs().amax() if rows else 0) / way.largest_code(k)
        assert y.shape == expected.shape
        assert y.dtype == torch.float32
        error = (y.double() - expected).abs().amax() if rows else 0
        assert error <= 1.01 * step + 1e-5 * expected.abs().amax() if rows else True
        whole = x.double() @ values.T + (0 if given is None else given.double())
        assert rows == 0 or (y - whole).abs().amax() <= 4 * k**0.5 * step


def test_the_largest_sums_are_exact(way):
    """Products of bytes that saturate, as of AVX2's own instruction for them, would be far off."""
    k = 16384
    weight = NarrowMatrix(torch.full((17, k), -128, dtype=torch.int8), torch.ones(17, 1))
    x = torch.full((9, k), -3.0)
    x[::2] = 3.0
    y = integer_linear(x, weight, None, way)
    torch.testing.assert_close(y, (x * -128).sum(1, keepdim=True).expand(9, 17), rtol=1e-5, atol=0)


def test_a_row_does_not_depend_on_those_beside_it(way):
    weight, x = int8_of(torch.randn(40, 96)).matrix, torch.randn(300, 96) * torch.logspace(-3, 3, 300)[:, None]
    together = integer_linear(x, weight, None, way)
    for row in (0, 5, 150, 299):
        alone = integer_linear(x[row : row + 1], weight, None, way)
        torch.testing.assert_close(alone, together[row : row + 1], rtol=2e-5, atol=float(x[row].abs().max()) * 1e-4)
    torch.testing.assert_close(integer_linear(x[20:60], weight, None, way), together[20:60], rtol=0, atol=0)


def test_bad_and_empty_rows_stay_alone(way):
    weight, x = int8_of(torch.randn(20, 40)).matrix, torch.randn(11, 40)
    x[2, 3], x[5, 39], x[6], x[7] = float("nan"), float("-inf"), 0, 1e-38
    y = integer_linear(x, weight, None, way)
    assert torch.isnan(y[[2, 5]]).all()
    assert (y[6:8] == 0).all()
    assert torch.isfinite(y[[0, 1, 3, 4, 8, 9, 10]]).all()


def test_strided_and_narrow_activations(way):
    weight = int8_of(torch.randn(40, 128))
    values = weight.dequantised_rows(0, 40)
    for x in (torch.randn(9, 300)[:, 20:148], torch.randn(9, 256)[:, ::2], torch.randn(9, 128).bfloat16()):
        y = integer_linear(x, weight.matrix, torch.zeros(40, dtype=x.dtype), way)
        assert y.dtype == x.dtype
        assert (y.float() - x.float() @ values.T).abs().max() < 0.3


@pytest.mark.parametrize("rows", [1, 30])
def test_threads_do_not_change_a_bit(way, rows):
    weight, x, threads, results = int8_of(torch.randn(530, 256)).matrix, torch.randn(rows, 256), [], []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(integer_linear(x, weight, None, way))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_codes_are_as_large_as_sums_allow():
    words, byte_way = IntegerWay("words", 1), IntegerWay("bytes", 1)
    assert [words.largest_code(k) for k in (64, 512, 2048, 14336, 131072)] == [32767, 32767, 8191, 1170, 127]
    assert byte_way.largest_code(64) == 127
    assert all(128 * k * words.largest_code(k) < 2**31 for k in (512, 2048, 5632, 28672))
    assert [fits_integers(k) for k in (131072, 140000)] == [True, False]


def test_a_weight_whose_form_rounds_inputs_takes_the_machines_way(monkeypatch):
    monkeypatch.setattr(quantised, "integer_way", lambda: IntegerWay("bytes", 1))
    values, x = torch.randn(12, 64), torch.randn(5, 64)
    weight = QuantisedWeight.empty(W8A8, (12, 64), torch.float32, torch.device("cpu"))
    weight.quantise_(0, values)
    plain = int8_of(values)
    assert weight.form != INT8 == plain.form
    assert torch.equal(weight.dequantised_rows(0, 12), plain.dequantised_rows(0, 12))
    expected = integer_linear(x, plain.matrix, None, IntegerWay("bytes", 1))
    assert torch.equal(weight.matmul(x), expected)
    assert torch.equal(weight.rows(3, 9).matmul(x), expected[:, 3:9])
    assert not torch.equal(plain.matmul(x), expected)
