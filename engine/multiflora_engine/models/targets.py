"""Where one tensor of a checkpoint goes, and how its values lie there. Knows neither files nor models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F

from multiflora_adapters.base_model import Site, SitePart
from multiflora_engine.models.quantisation.dense_source import DenseSource
from multiflora_engine.models.quantisation.plain import PlainTensor
from multiflora_engine.models.quantisation.quantised_tensor import QuantisedTensor
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.quantised import QuantisedWeight
from multiflora_kernels.linear.weight import LinearWeight


class WeightTarget(Protocol):
    """A part of the decoder's weights that one tensor of the checkpoint fills."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of the checkpoint's tensor."""
        ...

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Where the part lies."""
        ...

    def as_rows(self) -> WeightTarget:
        """The same of a linear that is stored [out, in], whatever way round the family's others are."""
        ...

    def fill_from(self, source: DenseSource) -> None:
        """source: of `stored_shape`."""
        ...


@dataclass(frozen=True)
class Target:
    """A `WeightTarget` that is one dense tensor."""

    tensor: torch.Tensor  # contiguous; a view
    row_order: tuple[int, ...] | None = None  # row i is the stored row row_order[i]; None: it is i
    is_transposed: bool = False  # the checkpoint stores [in, out]
    part: SitePart | None = None  # where a rank has not all of what is stored: what it has
    column_order: tuple[int, ...] | None = None  # column i of the last dimension likewise
    offset: float = 0.0  # added to the stored values
    is_normalised: bool = False  # each row is divided by its length

    @property
    def stored_shape(self) -> tuple[int, ...]:
        shape = tuple(self.tensor.shape) if self.part is None else self._shape_of_whole(self.part.whole)
        return shape[::-1] if self.is_transposed else shape

    def _shape_of_whole(self, whole: Site) -> tuple[int, ...]:
        return whole.stored_shape[: self.tensor.dim()]

    @property
    def takes_pieces(self) -> bool:
        """It can be filled with some rows of the files at a time."""
        return not self.is_transposed and (self.row_order is None or self.tensor.dim() > 1)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.tensor,)

    def as_rows(self) -> Target:
        return replace(self, is_transposed=False)

    def fill_from(self, source: DenseSource) -> None:
        if isinstance(source, PlainTensor) and (ranges := self._stored_ranges):
            self._fill_ranges(source, ranges)
            return
        if not self.takes_pieces:
            self.fill(_whole(source))
            return
        rows = self.tensor.view(-1, self.tensor.shape[-1])
        order = None if self.row_order is None else torch.tensor(self.row_order)
        first = 0
        for piece in source.pieces():
            end = first + piece.shape[0]
            if order is None:
                rows[first:end].copy_(self.served(piece))
            else:
                places = ((order >= first) & (order < end)).nonzero().squeeze(1)
                values = self.served(piece[order[places] - first])
                rows.index_copy_(0, places.to(rows.device), values.to(rows.device, rows.dtype))
            first = end

    @property
    def _stored_ranges(self) -> tuple[tuple[int, int], ...] | None:
        """Of the stored rows, those of a part that has them in their order; None of others."""
        if self.part is None or self.part.whole.row_order is not None or self.is_transposed:
            return None
        return self.part.rows

    def _fill_ranges(self, source: PlainTensor, ranges: Iterable[tuple[int, int]]) -> None:
        filled = 0
        for first, end in ranges:
            own = self.tensor[filled : filled + end - first]
            replace(self, tensor=own, row_order=None, part=None).fill_from(source.rows(first, end))
            filled += end - first

    def fill(self, stored: torch.Tensor) -> None:
        """stored: of `stored_shape`, any float dtype."""
        rows = stored.t() if self.is_transposed else stored
        self.tensor.copy_(self.served(rows if self.row_order is None else rows[torch.tensor(self.row_order)]))

    def served(self, rows: torch.Tensor) -> torch.Tensor:
        """rows: some of those stored, in any float dtype. Returns their values as they are served."""
        if self.part is not None and self.part.columns is not None and self.tensor.dim() > 1:
            rows = rows[:, slice(*self.part.columns)]
        if self.column_order is not None:
            rows = rows[..., torch.tensor(self.column_order)]
        if self.is_normalised:
            return F.normalize(rows.float(), dim=-1)
        # Added in the target's dtype: w + 1 of a small bfloat16 w would be 1.
        return rows.to(self.tensor.dtype) + self.offset if self.offset else rows


@dataclass(frozen=True)
class QuantisedTarget:
    """A `WeightTarget` that is kept in integers: those of the checkpoint, or the nearest ones to its values."""

    weight: QuantisedWeight  # a view
    row_order: tuple[int, ...] | None = None  # as of `Target`
    is_transposed: bool = False  # as of `Target`
    part: SitePart | None = None  # as of `Target`

    @property
    def stored_shape(self) -> tuple[int, ...]:
        shape = self.weight.shape if self.part is None else self.part.whole.stored_shape
        return shape[::-1] if self.is_transposed else shape

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.weight.tensors

    def as_rows(self) -> QuantisedTarget:
        return replace(self, is_transposed=False)

    def fill_from(self, source: DenseSource) -> None:
        if isinstance(source, QuantisedTensor):
            self._store(source)
        elif self.is_transposed:
            self.weight.quantise_(0, self._kept(_whole(source).t(), 0), self._columns)
        else:
            first, filled = 0, 0
            for piece in source.pieces():
                kept = self._kept(piece, first)
                self.weight.quantise_(filled, kept, self._columns)
                first, filled = first + len(piece), filled + len(kept)
        if self.row_order is not None:
            # Rows were kept as they came: each moves to the place that the order gives it.
            order = torch.tensor(self.row_order).argsort().argsort()
            for tensor in self.weight.tensors:
                tensor.copy_(tensor[order])

    @property
    def _columns(self) -> slice:
        """Of the stored inputs, those that are kept."""
        return slice(None) if self.part is None or self.part.columns is None else slice(*self.part.columns)

    def _kept(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """rows: those stored from `first` on. Returns the ones that are kept, in the same order."""
        if self.part is None or self.row_order is None:
            return rows
        own = torch.tensor(self.row_order)
        return rows[own[(own >= first) & (own < first + len(rows))].sort().values - first]

    def _store(self, source: QuantisedTensor) -> None:
        first, filled = 0, 0
        for rows in source.integers():
            codes, scales = self._kept(rows.codes, first), self._kept(rows.scales, first)
            zeros = None if rows.zeros is None else self._kept(rows.zeros, first)
            groups = self._groups(rows.codes.shape[1], scales.shape[1])
            self.weight.store_(
                filled, codes[:, self._columns], scales[:, groups], None if zeros is None else zeros[:, groups]
            )
            first, filled = first + len(rows.codes), filled + len(codes)

    def _groups(self, inputs: int, count: int) -> slice:
        """Which of `count` groups of inputs the kept ones are; the form says that these are whole groups."""
        if self.part is None or self.part.columns is None or count == 1:
            return slice(None)
        size = inputs // count
        return slice(self.part.columns[0] // size, self.part.columns[1] // size)


def weight_target(
    weight: LinearWeight,
    first: int,
    end: int,
    site: Site,
    is_transposed: bool,
    is_normalised: bool,
) -> WeightTarget:
    """Of these rows, which are one linear of the checkpoint, or a part of it; the rest as of `Target`."""
    if isinstance(weight, QuantisedWeight):
        assert not is_normalised, "only heads are"
        return QuantisedTarget(weight.rows(first, end), site.row_order, is_transposed, site.part)
    assert isinstance(weight, DenseWeight), "what is not kept in codes is one tensor"
    return Target(weight.tensor[first:end], site.row_order, is_transposed, site.part, is_normalised=is_normalised)


def _whole(source: DenseSource) -> torch.Tensor:
    return torch.cat([piece.clone() for piece in source.pieces()]).view(source.shape)
