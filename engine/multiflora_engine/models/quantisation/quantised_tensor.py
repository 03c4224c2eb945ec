"""What all quantised forms share: one dense tensor that is put together from several stored ones, its parts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from multiflora_engine.models.checkpoint import StoredTensor
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.quantisation.plain import read_rows
from multiflora_kernels.linear.quantised import IntegerForm

FLOATS = ("F32", "F16", "BF16")

_PIECE_ELEMENTS = 4 << 20


@dataclass(frozen=True)
class IntegerRows:
    """Some rows of a tensor of integers. Semantics: W[n, k] = (codes[n, k] - zeros[n, g(k)]) * scales[n, g(k)]."""

    codes: torch.Tensor  # uint8 [n, K]
    scales: torch.Tensor  # float32 [n, G]
    zeros: torch.Tensor | None  # integers [n, G]; None: 2^(bits - 1)


@dataclass(frozen=True)
class QuantisedTensor(ABC):
    """A `DenseSource` of a quantised linear. A form says which parts it needs, in which shapes, and what they mean."""

    module: str  # the linear's name: "model.layers.0.mlp.down_proj"
    parts: Mapping[str, StoredTensor]  # by the end of their names: ".qweight"

    @property
    def name(self) -> str:
        """Of the dense tensor."""
        return f"{self.module}.weight"

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]: ...

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts.values())

    @abstractmethod
    def check(self) -> None: ...

    @abstractmethod
    def pieces(self) -> Iterator[torch.Tensor]: ...

    @property
    def form(self) -> IntegerForm | None:
        """What it can be kept as, exactly; None: it has to be dequantised. Asked after `check`."""
        return None

    def integers(self) -> Iterator[IntegerRows]:
        """All rows in order, some at a time, of what has a form."""
        raise AssertionError(f"{self.module} has no integers")

    def part(self, ending: str) -> StoredTensor:
        """Raises ModelError when the checkpoint lacks it."""
        if ending not in self.parts:
            others = ", ".join(self.module + other for other in sorted(self.parts)[:4])
            raise ModelError(f"The checkpoint lacks {self.module}{ending}, but has {others}. {_AGAIN}")
        return self.parts[ending]

    def read(self, ending: str) -> torch.Tensor:
        """The whole part, in its own type."""
        part = self.part(ending)
        pieces = [piece.clone() for piece in read_rows(part)]
        return torch.cat(pieces).view(part.shape) if pieces else torch.empty(0)

    def expect(self, ending: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> None:
        """Raises ModelError unless the part has one of the types and shapes."""
        part = self.part(ending)
        if part.dtype not in dtypes:
            raise self.damaged(ending, f"is {part.dtype}; it has to be {' or '.join(dtypes)}")
        if part.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise self.damaged(ending, f"has the shape {list(part.shape)}; {wanted} belongs to the other tensors")

    def damaged(self, ending: str, reason: str) -> ModelError:
        return ModelError(f"{self.module}{ending} {reason}. Do config.json and the weights belong together?")

    def matrix_shape(self, ending: str) -> tuple[int, int]:
        """Of a part that has to be a matrix; raises ModelError."""
        shape = self.part(ending).shape
        if len(shape) != 2 or 0 in shape:
            raise self.damaged(ending, f"has the shape {list(shape)}; it has to be a matrix")
        return shape[0], shape[1]

    def num_groups(self, ending: str, inputs: int, group_size: int | None) -> int:
        """Groups of an output's inputs, of which the part says something for each; raises ModelError."""
        size = group_size or inputs
        if inputs % size:
            raise self.damaged(ending, f"has no groups of {size}, which do not divide its {inputs} inputs")
        return inputs // size

    def check_groups(self, ending: str, groups: int) -> None:
        """Raises ModelError when the part, each input's group, names others than there are."""
        indices = self.read(ending)
        if indices.min() < 0 or indices.max() >= groups:
            raise self.damaged(ending, f"names groups from {indices.min()} to {indices.max()}; there are {groups}")

    def groups_of_inputs(self, group_size: int | None, ending: str | None = None) -> torch.Tensor:
        """Each input's group, int64 [K]: as the part says, if there may be one, or one group after the other."""
        if ending is not None and ending in self.parts:
            return self.read(ending).long()
        inputs = self.shape[-1]
        return torch.arange(inputs) // (group_size or inputs)

    def row_ranges(self, multiple: int = 1) -> Iterator[tuple[int, int]]:
        """(first, end) of the rows of each piece, all but the last a multiple of `multiple` of them."""
        rows = math.prod(self.shape[:-1])
        step = max(1, _PIECE_ELEMENTS // self.shape[-1] // multiple) * multiple
        for first in range(0, rows, step):
            yield first, min(rows, first + step)


@dataclass(frozen=True)
class IntegerTensor(QuantisedTensor):
    """A `QuantisedTensor` of integers with scales and zero points for groups of inputs."""

    @property
    @abstractmethod
    def bits(self) -> int: ...

    @abstractmethod
    def groups(self) -> torch.Tensor:
        """Each input's group, int64 [K]."""

    def form_with(self, group_size: int | None, has_zeros: bool) -> IntegerForm | None:
        """None where groups are of unequal sizes, which `group_size` cannot say."""
        groups, size = self.groups(), group_size or self.shape[-1]
        if torch.equal(groups, torch.arange(len(groups)) // size):
            return IntegerForm(self.bits, group_size, has_zeros)
        if (torch.bincount(groups, minlength=len(groups) // size) != size).any():
            return None
        return IntegerForm(self.bits, group_size, has_zeros, tuple(groups.argsort(stable=True).tolist()))

    def pieces(self) -> Iterator[torch.Tensor]:
        groups = self.groups()
        for rows in self.integers():
            values = rows.codes.float()
            values -= float(1 << (self.bits - 1)) if rows.zeros is None else rows.zeros[:, groups]
            values *= rows.scales[:, groups]
            yield values


_AGAIN = "Download or save the model again."
