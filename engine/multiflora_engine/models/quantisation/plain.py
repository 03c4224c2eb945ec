"""A tensor that is stored as it is: read straight from the file, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from multiflora_engine.models.checkpoint import StoredTensor
from multiflora_engine.models.errors import ModelError

TORCH_TYPES: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class PlainTensor:
    """A `DenseSource` that is one stored tensor."""

    name: str
    stored: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def num_bytes(self) -> int:
        return self.stored.num_bytes

    def check(self) -> None:
        if self.stored.dtype not in TORCH_TYPES:
            raise ModelError(f"{self.name} is {self.stored.dtype}; float32, bfloat16 and float16 weights are served.")

    def pieces(self) -> Iterator[torch.Tensor]:
        """Through one buffer: plain reads, because a mapped file that shrinks kills the process."""
        dtype = TORCH_TYPES[self.stored.dtype]
        columns = self.shape[-1] if self.shape else 1
        row_bytes = columns * dtype.itemsize
        rows = max(1, _PIECE_BYTES // row_bytes)
        total = math.prod(self.shape) // columns
        buffer = torch.empty(min(rows, total) * row_bytes, dtype=torch.uint8)
        memory = memoryview(buffer.numpy())  # type: ignore[arg-type]
        with self.stored.file.open("rb") as file:
            file.seek(self.stored.begin)
            for first in range(0, total, rows):
                size = min(rows, total - first) * row_bytes
                if file.readinto(memory[:size]) != size:
                    raise ModelError(f"{self.stored.file} ended while it was read. Download or save the model again.")
                yield buffer[:size].view(dtype).view(-1, columns)
