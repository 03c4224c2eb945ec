"""`python -m multiflora_platform.conversion.weights_child SOURCE DESTINATION SECONDS FILE...`: pickles to safetensors.

The pickles are read by torch's unpickler for weights alone, which builds tensors and calls no other code, in a process
that has confined itself, should that unpickler have a hole.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from multiflora_engine.models.checkpoint import INDEX_NAME, SINGLE_NAME
from multiflora_platform.confinement import confine
from multiflora_platform.conversion.child import ConversionError, answer, first_line

SHARD_BYTES = 2 << 30
_SPARE_BYTES = 1 << 30
_DTYPES = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    }
)
# How torch's unpickler names what is no tensor: `GLOBAL os.system was not an allowed global`, ...
_FOREIGN = re.compile(r"GLOBAL (\S+)")


def convert_pickles(files: Sequence[Path], destination: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write model.safetensors, or shards of about shard_bytes and their index. Raises ConversionError."""
    # Tied tensors are written in full each, and then weigh twice what the files hold; more is no model.
    writer = _ShardWriter(destination, shard_bytes, most_bytes=_most_bytes(files))
    for file in files:
        for name, tensor in _tensors(file):
            writer.add(file, name, tensor)
        # While the file's memory is mapped.
        writer.flush()
    writer.finish()


def _most_bytes(files: Sequence[Path]) -> int:
    return 2 * sum(file.stat().st_size for file in files) + (1 << 20)


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        # Files from before torch 1.6 are no archives, and cannot be mapped.
        is_archive = zipfile.is_zipfile(file)
        if is_archive:
            _require_plain(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_archive)
    except MemoryError:
        raise
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        foreign = _FOREIGN.search(str(error))
        why = f"it asks for {foreign[1]}, which is code and no tensor" if foreign else first_line(error)
        raise ConversionError(f"{file.name} cannot be read as weights: {why}") from None
    if not isinstance(content, dict) or not content:
        raise ConversionError(f"{file.name} holds no dictionary of tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ConversionError(f"{file.name} holds {str(name)[:80]!r}, a {type(value).__name__} and no tensor")
        yield name, value.detach()


def _require_plain(file: Path) -> None:
    """A mapped file shows the bytes as they are stored."""
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed, which what PyTorch saves never is")


class _ShardWriter:
    """Collects tensors of one file and writes them as a shard when they are enough."""

    def __init__(self, destination: Path, shard_bytes: int, most_bytes: int) -> None:
        self._destination = destination
        self._shard_bytes = shard_bytes
        self._most_bytes = most_bytes
        # Names of the tensors by shard, in the order of writing.
        self._written: list[list[str]] = []
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = self._total_bytes = 0
        self._names: set[str] = set()

    def add(self, file: Path, name: str, tensor: torch.Tensor) -> None:
        size = self._checked_size(file, name, tensor)
        if self._pending and self._pending_bytes + size > self._shard_bytes:
            self.flush()
        self._names.add(name)
        self._pending[name] = tensor
        self._pending_bytes += size
        self._total_bytes += size

    def _checked_size(self, file: Path, name: str, tensor: torch.Tensor) -> int:
        shown = f"{file.name}: {name[:80]}"
        if name in self._names:
            raise ConversionError(f"{shown} is there twice")
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
            raise ConversionError(f"{shown} is a {tensor.layout} of {tensor.dtype}, which safetensors cannot hold")
        size = tensor.numel() * tensor.element_size()
        if self._total_bytes + size > self._most_bytes:
            raise ConversionError(f"{shown} makes the tensors larger than the files that hold them")
        return size

    def flush(self) -> None:
        if not self._pending:
            return
        # safetensors takes no two tensors of one memory.
        own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self._pending.items()}
        try:
            save_file(own, self._shard(len(self._written)), metadata={"format": "pt"})
        except Exception as error:  # safetensors' own, and the disk's
            raise ConversionError(f"the safetensors cannot be written: {first_line(error)}") from None
        self._written.append(list(self._pending))
        self._pending, self._pending_bytes = {}, 0

    def _shard(self, number: int) -> Path:
        return self._destination / f"part-{number}.safetensors"

    def finish(self) -> None:
        """Names that tell how many there are can only be given now."""
        if len(self._written) == 1:
            self._shard(0).rename(self._destination / SINGLE_NAME)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._written):
            shard = f"model-{number + 1:05}-of-{len(self._written):05}.safetensors"
            self._shard(number).rename(self._destination / shard)
            weight_map |= dict.fromkeys(names, shard)
        index: dict[str, Any] = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
        (self._destination / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    source, destination, seconds, *names = sys.argv[1:]
    files = [Path(source) / name for name in names]
    sizes = [file.stat().st_size for file in files]
    # A file mapped or read, a shard's tensors, and their bytes once more as they are written; the largest of them may
    # be as large as its file.
    memory = 3 * max(sizes) + 3 * SHARD_BYTES + _SPARE_BYTES
    confine(memory_bytes=memory, seconds=int(seconds), file_bytes=_most_bytes(files))
    answer(lambda: convert_pickles(files, Path(destination)))


if __name__ == "__main__":
    main()
