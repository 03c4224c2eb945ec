"""Where one tensor of a checkpoint goes, and how its values lie there. Knows neither files nor models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Target:
    """A part of the decoder's weights that one tensor of the checkpoint fills."""

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
    def keeps_rows(self) -> bool:
        """Rows stand where they stand in the files, so that they can be filled piece by piece."""
        return self.row_order is None and not self.is_transposed

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
