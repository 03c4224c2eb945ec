"""Where one tensor of a checkpoint goes, and how its values lie there. Knows neither files nor models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F

from multiflora_engine.models.quantisation.dense_source import DenseSource
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
    column_order: tuple[int, ...] | None = None  # column i of the last dimension likewise
    offset: float = 0.0  # added to the stored values
    is_normalised: bool = False  # each row is divided by its length

    @property
    def stored_shape(self) -> tuple[int, ...]:
        shape = tuple(self.tensor.shape)
        return shape[::-1] if self.is_transposed else shape

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
        if not self.takes_pieces:
            self.fill(_whole(source))
            return
        rows = self.tensor.view(-1, self.tensor.shape[-1])
        places = None if self.row_order is None else torch.tensor(self.row_order).argsort()
        first = 0
        for piece in source.pieces():
            end, values = first + piece.shape[0], self.served(piece)
            if places is None:
                rows[first:end].copy_(values)
            else:
                there = places[first:end].to(rows.device)
                rows.index_copy_(0, there, values.to(rows.device, rows.dtype))
            first = end

    def fill(self, stored: torch.Tensor) -> None:
        """stored: of `stored_shape`, any float dtype."""
        rows = stored.t() if self.is_transposed else stored
        self.tensor.copy_(self.served(rows if self.row_order is None else rows[torch.tensor(self.row_order)]))

    def served(self, rows: torch.Tensor) -> torch.Tensor:
        """rows: some of those stored, in any float dtype. Returns their values as they are served."""
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

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.weight.shape[::-1] if self.is_transposed else self.weight.shape

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.weight.tensors

    def as_rows(self) -> QuantisedTarget:
        return replace(self, is_transposed=False)

    def fill_from(self, source: DenseSource) -> None:
        if isinstance(source, QuantisedTensor):
            self._store(source)
        elif self.is_transposed:
            self.weight.quantise_(0, _whole(source).t())
        else:
            first = 0
            for piece in source.pieces():
                self.weight.quantise_(first, piece)
                first += len(piece)
        if self.row_order is not None:
            order = torch.tensor(self.row_order)
            for tensor in self.weight.tensors:
                tensor.copy_(tensor[order])

    def _store(self, source: QuantisedTensor) -> None:
        first = 0
        for rows in source.integers():
            self.weight.store_(first, rows.codes, rows.scales, rows.zeros)
            first += len(rows.codes)


def weight_target(
    weight: LinearWeight,
    first: int,
    end: int,
    row_order: tuple[int, ...] | None,
    is_transposed: bool,
    is_normalised: bool,
) -> WeightTarget:
    """Of these rows, which are one linear of the checkpoint; the rest as of `Target`."""
    if isinstance(weight, QuantisedWeight):
        assert not is_normalised, "only heads are"
        return QuantisedTarget(weight.rows(first, end), row_order, is_transposed)
    assert isinstance(weight, DenseWeight), "what is not kept in codes is one tensor"
    return Target(weight.tensor[first:end], row_order, is_transposed, is_normalised=is_normalised)


def _whole(source: DenseSource) -> torch.Tensor:
    return torch.cat([piece.clone() for piece in source.pieces()]).view(source.shape)
