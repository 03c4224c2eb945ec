"""Reads the tensors of a checked safetensors file in one pass, hashing every byte on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Protocol

import torch

from multiflora_adapters.base_model import Site
from multiflora_adapters.report import AdapterError, error, shown
from multiflora_adapters.tensor_file import PIECE_BYTES, TensorFile

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# A copy of the base's weight may have been rounded to the training dtype (bfloat16 keeps 8 bits).
_COPY_RELATIVE, _COPY_ABSOLUTE = 2.0**-7, 1e-6
# The base's may be kept in 8 bits: half a step of a row's scale away from its values.
_HALF_A_STEP = 0.51 / 127


class Hasher(Protocol):
    def update(self, data: memoryview | bytes, /) -> None: ...


class TensorBytes:
    """The tensors that were read, by name; `take` hands one out and forgets it."""

    def __init__(self, source: TensorFile, tensors: dict[str, torch.Tensor]) -> None:
        self._source = source
        self._tensors = tensors

    def take(self, name: str) -> torch.Tensor:
        """The tensor in the file's dtype and shape."""
        return self._tensors.pop(name)

    def sha256(self, name: str) -> str:
        """Hex, of the bytes in the file, of a tensor that was not taken yet."""
        return hashlib.sha256(self._tensors[name].reshape(-1).view(torch.uint8).numpy().data).hexdigest()

    def check_base_copy(self, name: str, site: Site, weight: torch.Tensor, is_exact: bool) -> None:
        """PEFT saves a copy of an embedding beside its LoRA. It is not loaded, so it must equal `weight`, which is the
        site's as it is served; where that is not exact, to its rounding to 8 bits.

        Raises AdapterError when it differs: the adapter belongs to another (or a trained) embedding.
        """
        entry = self._source.tensors[name]
        rows_at_once = max(1, PIECE_BYTES // (entry.num_bytes // entry.shape[0]))
        order = torch.arange(entry.shape[0]) if site.row_order is None else torch.tensor(site.row_order)
        columns = slice(None) if site.part is None or site.part.columns is None else slice(*site.part.columns)
        with self._source.path.open("rb") as file:
            file.seek(self._source.data_start + entry.data_offsets[0])
            for start in range(0, entry.shape[0], rows_at_once):
                end = min(entry.shape[0], start + rows_at_once)
                copy = _tensor(bytearray(file.read(entry.num_bytes // entry.shape[0] * (end - start))), entry.dtype)
                own = ((order >= start) & (order < end)).nonzero().squeeze(1)
                ours = weight[own.to(weight.device)].to(device="cpu", dtype=torch.float32)
                copied = copy.to(torch.float32).view(end - start, -1)[order[own] - start, columns]
                allowed = _COPY_ABSOLUTE + _COPY_RELATIVE * ours.abs()
                if not is_exact:
                    allowed += _HALF_A_STEP * ours.abs().amax(-1, keepdim=True)
                if not ((copied - ours).abs() <= allowed).all():
                    message = f"{shown(name)} differs from the base model's weight."
                    raise AdapterError(error("base", message, hint="It was trained on another base model."))


def read_tensors(source: TensorFile, hasher: Hasher, skip: Collection[str]) -> TensorBytes:
    """All tensors but those in `skip`. The hasher sees the whole file. Raises AdapterError if the file is cut short."""
    tensors: dict[str, torch.Tensor] = {}
    with source.path.open("rb") as file:
        hasher.update(file.read(source.data_start))
        for name, entry in source.tensors.items():
            kept = None if name in skip else bytearray(entry.num_bytes)
            position = 0
            while position < entry.num_bytes:
                piece = file.read(min(PIECE_BYTES, entry.num_bytes - position))
                if not piece:
                    raise AdapterError(error("file", "The adapter's file ends before its data does."))
                hasher.update(piece)
                if kept is not None:
                    kept[position : position + len(piece)] = piece
                position += len(piece)
            if kept is not None:
                tensors[name] = _tensor(kept, entry.dtype).view(entry.shape)
        hasher.update(file.read(1))  # anything after the last tensor means that the file changed
    return TensorBytes(source, tensors)


def _tensor(content: bytearray, dtype: str) -> torch.Tensor:
    return torch.frombuffer(content, dtype=_DTYPES[dtype])
