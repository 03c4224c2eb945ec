"""A tensor that is stored as it is: read straight from the file, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from multiflora_engine.models.checkpoint import StoredTensor
from multiflora_engine.models.errors import ModelError

_SERVED_TYPES = ("F32", "F16", "BF16")
STORED_TYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""Those that weights and what belongs to them are stored in, by safetensors' names."""

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

    def rows(self, first: int, end: int) -> PlainTensor:
        """Some of its rows, read without the others."""
        row_bytes = self.stored.num_bytes // self.shape[0]
        begin, num_bytes = self.stored.begin + first * row_bytes, (end - first) * row_bytes
        shape = (end - first, *self.shape[1:])
        return replace(self, stored=replace(self.stored, shape=shape, begin=begin, num_bytes=num_bytes))

    def check(self) -> None:
        if self.stored.dtype not in _SERVED_TYPES:
            raise ModelError(f"{self.name} is {self.stored.dtype}; float32, bfloat16 and float16 weights are served.")

    def pieces(self) -> Iterator[torch.Tensor]:
        return read_rows(self.stored)


def read_rows(stored: StoredTensor) -> Iterator[torch.Tensor]:
    """A stored tensor of any known type as `DenseSource.pieces` promises it, in its own type. Raises ModelError.

    Through one buffer: plain reads, because a mapped file that shrinks kills the process.
    """
    dtype = STORED_TYPES[stored.dtype]
    columns = stored.shape[-1] if stored.shape else 1
    if 0 in stored.shape:
        return
    row_bytes = columns * dtype.itemsize
    rows = max(1, _PIECE_BYTES // row_bytes)
    total = math.prod(stored.shape) // columns
    buffer = torch.empty(min(rows, total) * row_bytes, dtype=torch.uint8)
    memory = memoryview(buffer.numpy())  # type: ignore[arg-type]
    with stored.file.open("rb") as file:
        file.seek(stored.begin)
        for first in range(0, total, rows):
            size = min(rows, total - first) * row_bytes
            if file.readinto(memory[:size]) != size:
                raise ModelError(f"{stored.file} ended while it was read. Download or save the model again.")
            yield buffer[:size].view(dtype).view(-1, columns)
