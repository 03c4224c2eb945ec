"""A linear's weight kept in 4 or 8 bits: the one layout that formats of checkpoints map onto exactly.

Source of the formula: affine quantisation by groups of inputs (GPTQ, arXiv:2210.17323; AWQ, arXiv:2306.00978).
Knows no checkpoint format.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from multiflora_kernels.linear.integer import integer_linear
from multiflora_kernels.linear.integer_choice import integer_way
from multiflora_kernels.linear.narrow import narrow_linear, widen
from multiflora_kernels.linear.narrow_matrix import INPUTS, NarrowMatrix, pack_nibbles

_ALL = slice(None)


@dataclass(frozen=True)
class IntegerForm:
    """What two linears must share to be stacked. Codes are integers, but with a table or a float type."""

    bits: int  # of a code, 2 to 8; codes of at most 4 bits are kept in 4, others in 8
    group_size: int | None = None  # inputs of an output that share a scale; None: all
    has_zeros: bool = False  # groups have zero points of their own; without, they are 2^(bits - 1)
    order: tuple[int, ...] | None = field(default=None, repr=False)  # column i is kept of input order[i]; None: of i
    # What codes of 4 bits stand for; None: themselves.
    table: tuple[float, ...] | None = field(default=None, repr=False)
    float_type: torch.dtype | None = None  # of which codes of 8 bits are the bits, E4M3 or E5M2; None: of integers
    rounds_inputs: bool = False  # products are those of inputs rounded to integers (`IntegerWay`); only of INT8

    def suits(self, k: int) -> bool:
        """Whether a linear of k inputs can be kept so: rows of 4 bits, and groups, are whole blocks."""
        size = self.group_size or k
        return k % size == 0 and ((self.bits > 4 and size == k) or size % INPUTS == 0)


INT8 = IntegerForm(8)
"""Weight-only int8: a scale for each output."""

W8A8 = replace(INT8, rounds_inputs=True)
"""The same with activations in integers; for machines that have an `integer_way`."""


class QuantisedWeight:
    """A `LinearWeight` of integers, or of the values of a table, or of floats of 8 bits.

    Semantics: W[n, order[i]] = (q[n, i] - zero[n, g]) * scale[n, g], g = i // group_size; the two others have no zero.
    """

    def __init__(
        self, form: IntegerForm, matrix: NarrowMatrix, dtype: torch.dtype, inputs: torch.Tensor | None = None
    ) -> None:
        """dtype: of x and y, and of dequantised rows. inputs: the form's order, int64 [K]; None: its own."""
        self.form = form
        self.matrix = matrix
        self.dtype = dtype
        self.inputs = inputs
        self._way = integer_way() if form.rounds_inputs else None

    @classmethod
    def empty(
        cls, form: IntegerForm, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> QuantisedWeight:
        """Uninitialised; `store_` and `quantise_` fill it."""
        rows, k = shape
        assert form.suits(k), f"{form} for {k} inputs"
        groups = k // (form.group_size or k)
        is_packed = form.bits <= 4
        codes = torch.empty(
            (rows, k // 2 if is_packed else k), dtype=torch.uint8 if is_packed else torch.int8, device=device
        )
        scales = torch.empty((rows, groups), dtype=torch.float32, device=device)
        # The kernel takes 8 for the zero point of four bits; of fewer it is another one.
        needs_zeros = form.has_zeros or form.bits not in (4, 8)
        zeros = torch.empty((rows, groups), dtype=torch.int8, device=device) if needs_zeros else None
        inputs = None if form.order is None else torch.tensor(form.order, device=device)
        table = None if form.table is None else torch.tensor(form.table, dtype=torch.float32, device=device)
        sums = torch.empty(rows, dtype=torch.int32, device=device) if form.rounds_inputs else None
        return cls(form, NarrowMatrix(codes, scales, zeros, table, form.float_type, sums), dtype, inputs)

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What each of its rows is made of."""
        matrix = self.matrix
        return tuple(part for part in (matrix.codes, matrix.scales, matrix.zeros, matrix.sums) if part is not None)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.tensors) + (0 if self.inputs is None else self.inputs.nbytes)

    @property
    def rounds_activations(self) -> bool:
        """To 8 bits; else they stay float32, or nearly so."""
        return self._way is not None and self._way.kind == "bytes"

    def matmul(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x: [T, K], bias: [N]. See `narrow_linear_reference`, and `integer_linear` of forms that round inputs."""
        if self._way is not None:
            return integer_linear(x, self.matrix, bias, self._way)
        return narrow_linear(x if self.inputs is None else x.index_select(1, self.inputs), self.matrix, bias)

    def dequantised_rows(self, first: int, end: int) -> torch.Tensor:
        """[end - first, K], made anew."""
        kept = widen(self.matrix.rows(first, end)).to(self.dtype)
        return kept if self.inputs is None else torch.empty_like(kept).index_copy_(1, self.inputs, kept)

    def rows(self, first: int, end: int) -> QuantisedWeight:
        """A view of these rows, for a loader."""
        return QuantisedWeight(self.form, self.matrix.rows(first, end), self.dtype, self.inputs)

    def store_(self, first: int, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None) -> None:
        """Rows from `first` on. codes: uint8 [n, K] of `form.bits` bits, input after input; scales: [n, G]; zeros:
        [n, G] where the form has them."""
        own = self.matrix.rows(first, first + len(codes))
        assert own.scales is not None, "integers have scales"
        own.scales.copy_(scales)
        if own.zeros is not None:
            own.zeros.copy_(self._shifted(1 << (self.form.bits - 1) if zeros is None else zeros))
        codes = codes if self.inputs is None else codes[:, self.inputs.to(codes.device)]
        own.codes.copy_(pack_nibbles(codes) if self.form.bits <= 4 else self._signed(codes).view(torch.int8))
        if own.sums is not None:
            torch.sum(own.codes, 1, dtype=torch.int32, out=own.sums)

    def quantise_(self, first: int, values: torch.Tensor, columns: slice = _ALL) -> None:
        """Rows from `first` on become the nearest codes of these columns. values: [n, K or more], whole rows, each of
        which has one scale; a row of zeros stays one."""
        assert self.form in (INT8, W8A8), "other forms come from checkpoints"
        wide = values.float()
        scales = wide.abs().amax(1, keepdim=True) / 127
        codes = (wide[:, columns] / scales.where(scales > 0, 1.0)).round_().to(torch.int8)
        self.store_(first, codes.view(torch.uint8) ^ 128, scales, None)

    def _signed(self, codes: torch.Tensor) -> torch.Tensor:
        return codes if self.form.float_type is not None else codes ^ 128

    def _shifted(self, zeros: torch.Tensor | int) -> torch.Tensor:
        """Codes of 8 bits are kept as signed numbers, 128 less."""
        wide = torch.as_tensor(zeros, dtype=torch.int16)
        return wide if self.form.bits <= 4 else wide - 128
