"""Where one tensor of a checkpoint goes, and how its values lie there. Knows neither files nor models."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Target:
    """A part of the decoder's weights that one tensor of the checkpoint fills."""

    tensor: torch.Tensor  # contiguous; a view
    row_order: tuple[int, ...] | None = None  # row i is the stored row row_order[i]; None: it is i
    is_transposed: bool = False  # the checkpoint stores [in, out]
    offset: float = 0.0  # added to the stored values

    @property
    def stored_shape(self) -> tuple[int, ...]:
        shape = tuple(self.tensor.shape)
        return shape[::-1] if self.is_transposed else shape

    @property
    def is_plain(self) -> bool:
        """The stored values lie there as they are, so that they can be copied piece by piece."""
        return self.row_order is None and not self.is_transposed and self.offset == 0.0

    def fill(self, stored: torch.Tensor) -> None:
        """stored: of `stored_shape`, any float dtype."""
        rows = stored.t() if self.is_transposed else stored
        if self.row_order is not None:
            rows = rows[torch.tensor(self.row_order)]
        # Added in the target's dtype: w + 1 of a small bfloat16 w would be 1.
        self.tensor.copy_(rows.to(self.tensor.dtype) + self.offset if self.offset else rows)
