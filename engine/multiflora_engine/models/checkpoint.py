"""The weight files of a model folder: which tensors lie where, and the digest of it all. safetensors only. Torch-free.

Source of the format: https://github.com/huggingface/safetensors. Knows no model.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from multiflora_engine.models.configuration.config_fields import read_json_object
from multiflora_engine.models.errors import ModelError, mistaken_file
from multiflora_engine.models.file_digests import combined_digest

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
ITEM_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip

_VALUE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_MAX_HEADER_BYTES = 100 << 20
_AGAIN = "Download or save the model again."


class _HeaderEntry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, as the file's header says."""

    file: Path
    dtype: str  # as safetensors writes it: "F32", "BF16", ...
    shape: tuple[int, ...]
    begin: int  # its first byte in the file
    num_bytes: int


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, sorted by name. Raises ModelError when any is missing."""
    if not (folder / SINGLE_NAME).is_file() and (folder / INDEX_NAME).is_file():
        weight_map = read_json_object(folder / INDEX_NAME).get("weight_map")
        names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ModelError(f"{folder / INDEX_NAME} does not map tensors to files in its own folder. {_AGAIN}")
    else:
        names = {SINGLE_NAME}
    files = [folder / name for name in sorted(names)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(f"{folder} lacks {', '.join(missing[:4])}{' ...' * (len(missing) > 4)}. {_advice(folder)}")
    return files


def served_bytes(folder: Path, stored: str | None, served: str) -> int:
    """About what the weights take. stored: the checkpoint's type; served: float32, float16, bfloat16 or int8, which the
    weights become; else they stay as they are, which is the least that they take. Raises ModelError."""
    on_disk = sum(file.stat().st_size for file in weight_files(folder))
    before, after = _VALUE_BYTES.get(stored or ""), _VALUE_BYTES.get(served)
    return on_disk if before is None or after is None else on_disk * after // before


def _advice(folder: Path) -> str:
    if (folder / INDEX_NAME).is_file():
        return _AGAIN
    hub_id = _hub_id(folder)
    if hub_id is None and not any(folder.glob("*.bin")):
        return _AGAIN
    source = f"{folder} {folder}-safetensors" if hub_id is None else f"{hub_id} ./{Path(hub_id).name}-safetensors"
    return (
        ".bin files are pickles, which can run code and are never opened here: make safetensors of them, with "
        f"`multiflora models convert {source}`."
    )


def _hub_id(folder: Path) -> str | None:
    """Of a download, which leaves .bin files on the hub."""
    repository = folder.parent.parent.name
    is_download = folder.parent.name == "snapshots" and repository.startswith("models--")
    return repository.removeprefix("models--").replace("--", "/") if is_download else None


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of all weight files by name, file by file in the order of their bytes. Raises ModelError."""
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        tensors.update(_read_header(file))
    return tensors


def model_digest(folder: Path, overrides: Mapping[str, Any] = MappingProxyType({})) -> str:
    """SHA-256 hex over config.json's and the weight files' own SHA-256, which are cached by path, size and time; and
    over what stands in the place of config.json's values, if anything does."""
    digest = combined_digest([folder / "config.json", *weight_files(folder)])
    if not overrides:
        return digest
    return hashlib.sha256(digest.encode() + msgspec.json.encode(dict(overrides), order="deterministic")).hexdigest()


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            beginning = file.read(64)
            header_size = int.from_bytes(beginning[:8], "little")
            if size < 8 or header_size > min(size - 8, _MAX_HEADER_BYTES):
                if told := mistaken_file(path, beginning):
                    raise ModelError(told)
                raise _damaged(path, "it is truncated, or no safetensors file")
            file.seek(8)
            header = file.read(header_size)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(value, type=_HeaderEntry) for name, value in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, f"its header is not valid ({error})") from None
    start = 8 + header_size
    tensors = {name: _stored(path, name, entry, start, size) for name, entry in entries.items()}
    return dict(sorted(tensors.items(), key=lambda item: item[1].begin))


def _stored(path: Path, name: str, entry: _HeaderEntry, start: int, size: int) -> StoredTensor:
    begin, end = entry.data_offsets
    if not 0 <= begin <= end or start + end > size:
        raise _damaged(path, f"it ends before {name} does: the file has {size} bytes, {start + end} are needed")
    expected = math.prod(entry.shape) * ITEM_BYTES.get(entry.dtype, 0)
    if entry.dtype in ITEM_BYTES and (end - begin != expected or min(entry.shape, default=0) < 0):
        raise _damaged(path, f"the shape of {name} does not fit its bytes")
    return StoredTensor(path, entry.dtype, entry.shape, start + begin, end - begin)


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} is damaged: {reason}. {_AGAIN}")
