"""What the loader reads: dense tensors, whatever form the checkpoint stores them in. A new form is one more file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch


class DenseSource(Protocol):
    """One dense tensor, which may be put together from several stored ones while it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense tensor."""
        ...

    @property
    def num_bytes(self) -> int:
        """That are read from the files."""
        ...

    def check(self) -> None:
        """Raises ModelError when it cannot be read; reads no weights."""
        ...

    def pieces(self) -> Iterator[torch.Tensor]:
        """The tensor as a matrix [-1, shape[-1]], in order, some rows at a time, so that memory stays bounded.

        Pieces are on the CPU, in any floating type, and valid until the next is asked for. Raises ModelError for files
        that end too early.
        """
        ...
