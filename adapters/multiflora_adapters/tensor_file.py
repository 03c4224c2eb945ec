"""adapter_model.safetensors: its header checked within strict limits, its values read in pieces. Torch-free.

Source of the format: https://github.com/huggingface/safetensors. Plain reads rather than a memory map: a file that
shrinks meanwhile is then an error and not a signal that ends the process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import msgspec
import numpy as np
import numpy.typing as npt

from multiflora_adapters.lora_config import is_regular_file
from multiflora_adapters.report import (
    POINTER,
    AdapterError,
    ValidationRow,
    error,
    pointer_row,
    shown,
)

WEIGHTS_NAME = "adapter_model.safetensors"
MAX_HEADER_BYTES = 8 << 20  # an adapter on 3 linears of 128 experts in 48 layers takes 5.5 MB: 37,000 tensors
PIECE_BYTES = 4 << 20
_MAX_DIMENSIONS = 8

FloatType = Literal["F64", "F32", "F16", "BF16"]
FLOAT_BYTES: dict[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# Bytes of the types that may stand in a well-formed file; all but the floats above are refused later, by name.
_ITEM_BYTES = FLOAT_BYTES | {
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
}


class TensorEntry(msgspec.Struct, frozen=True):
    """One tensor as the file's header describes it; `read_tensor_file` checks it against the file's size."""

    dtype: str  # as safetensors writes it: F32, BF16, ...
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]  # bytes from the start of the data: [begin, end)

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.data_offsets[1] - self.data_offsets[0]


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file with a sound header; `read_tensor_file` fills it."""

    path: Path
    data_start: int  # bytes before the first tensor: the offsets count from here
    tensors: dict[str, TensorEntry]  # in the order of their bytes, which leave no gap and do not overlap


def read_tensor_file(path: Path) -> TensorFile:
    """Read and check the header. Raises AdapterError with the reason and a hint."""
    if not is_regular_file(path):
        raise AdapterError(_missing_row(path.parent))
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        beginning = file.read(len(POINTER))
        file.seek(8)
        header_size = int.from_bytes(beginning[:8], "little")
        if size == 0:
            raise _corrupt("it is empty")
        if beginning == POINTER:
            raise AdapterError(pointer_row(WEIGHTS_NAME))
        if (kind := _other_kind(beginning)) is not None:
            raise _corrupt(f"it is {kind}, not a safetensors file")
        if size < 8 or header_size > size - 8:
            raise _corrupt("the file ends before its header does (truncated, or not a safetensors file)")
        if header_size > MAX_HEADER_BYTES:
            raise _corrupt(f"its header claims {header_size} bytes (at most {MAX_HEADER_BYTES})")
        header = file.read(header_size)
    entries = _decode_header(header)
    _check_extent(entries, size - 8 - header_size)
    return TensorFile(path, 8 + header_size, entries)


def read_pieces(file: BinaryIO, weights: TensorFile, entry: TensorEntry) -> Iterator[npt.NDArray[np.generic]]:
    """The raw values of a float tensor in pieces: uint64 for F64, uint32 for F32, uint16 for F16 and BF16.

    Raises AdapterError when the file has become shorter.
    """
    raw = np.dtype(f"<u{FLOAT_BYTES[entry.dtype]}")
    file.seek(weights.data_start + entry.data_offsets[0])
    left = entry.num_bytes
    while left:
        piece = file.read(min(left, PIECE_BYTES))
        if not piece or len(piece) % raw.itemsize:
            raise _corrupt("the file ends before its data does")
        left -= len(piece)
        yield np.frombuffer(piece, raw)


def count_non_finite(raw: npt.NDArray[np.generic], dtype: str) -> int:
    """How many of the raw values are NaN or infinite: their exponent bits are all set."""
    mask = {"F64": 0x7FF0000000000000, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[dtype]
    bits = cast("npt.NDArray[np.uint64]", raw)
    return int(np.count_nonzero((bits & bits.dtype.type(mask)) == mask))


def has_non_zero(raw: npt.NDArray[np.generic], dtype: str) -> bool:
    """True when any raw value is neither 0 nor -0."""
    bits = cast("npt.NDArray[np.uint64]", raw)
    all_but_sign = (1 << (8 * FLOAT_BYTES[dtype] - 1)) - 1
    return bool(np.any(bits & bits.dtype.type(all_but_sign)))


def _decode_header(header: bytes) -> dict[str, TensorEntry]:
    try:
        # Raw first: values of a hostile header stay bytes and never become a million Python objects.
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(value, type=TensorEntry) for name, value in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise _corrupt(f"its header is not valid ({shown(problem)})") from None
    return dict(sorted(entries.items(), key=lambda item: item[1].data_offsets))


def _check_extent(entries: dict[str, TensorEntry], data_size: int) -> None:
    position = 0
    for name, entry in entries.items():
        begin, end = entry.data_offsets
        if begin != position:
            raise _corrupt(f"the bytes of {shown(name)} overlap others or leave a gap")
        if entry.dtype not in _ITEM_BYTES:
            raise _corrupt(f"{shown(name)} has the unknown type {shown(entry.dtype)}")
        if len(entry.shape) > _MAX_DIMENSIONS or any(extent < 0 for extent in entry.shape):
            raise _corrupt(f"{shown(name)} has an impossible shape")
        if end - begin != entry.num_elements * _ITEM_BYTES[entry.dtype]:
            raise _corrupt(f"the shape of {shown(name)} does not fit its bytes")
        position = end
    if position != data_size:
        missing = position > data_size
        raise _corrupt("the file is truncated" if missing else "it has bytes that belong to no tensor")


def _other_kind(beginning: bytes) -> str | None:
    """What a file is instead, by its first bytes; of safetensors these are a small number and then a brace."""
    if beginning[8:9] == b"{":
        return None
    kinds = {
        b"PK": "a zip file, as torch.save writes it",
        b"\x80": "a pickle",
        b"GGUF": "a GGUF file",
        b"\x89HDF": "an HDF5 file",
        b"<": "a web page",
    }
    return next((kind for start, kind in kinds.items() if beginning.startswith(start)), None)


def _corrupt(reason: str) -> AdapterError:
    return AdapterError(error("file", f"{WEIGHTS_NAME} is damaged: {reason}.", hint="Copy or save the adapter again."))


def _missing_row(folder: Path) -> ValidationRow:
    if is_regular_file(folder / "adapter_model.bin"):
        return error(
            "file",
            "adapter_model.bin is a pickle, which can run code when it is loaded; it is never opened.",
            expected=WEIGHTS_NAME,
            hint="Save with safe_serialization=True (PEFT's default since 0.7).",
        )
    return error("file", f"{WEIGHTS_NAME} is missing.", hint="Upload the folder that PEFT saved.")
