"""Reads a checkpoint into the decoder's stacked weights, straight from the files, so that memory peaks at their size.

Knows names and bytes, not what the weights mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from multiflora_engine.models.checkpoint import ITEM_BYTES, StoredTensor, stored_tensors
from multiflora_engine.models.config import ModelConfig
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.tied_head import TORCH_TYPES, untangle_head
from multiflora_engine.models.weights import ModelWeights, allocate_weights

Progress = Callable[[int, int], None]

_PIECE_BYTES = 16 << 20
_GIB = 1 << 30
# Buffers that older versions of transformers saved; they follow from the config.
_DERIVED = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")


def load_weights(
    folder: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress | None = None,
    available: int | None = None,
) -> ModelWeights:
    """The model's weights on `device` in `dtype`. progress(done, total): bytes of the files. available: bytes that the
    weights may take; None where an allocation that is too large fails by itself.

    Raises ModelError for missing or damaged files, tensors that are missing, left over or of another shape, and when
    the weights do not fit into memory.
    """
    stored = stored_tensors(folder)
    if config.tie_word_embeddings:
        stored, config = untangle_head(stored, config, dtype)
    # The shapes are compared before any memory is taken for them.
    planned = allocate_weights(config, dtype, torch.device("meta"))
    _check(stored, planned.targets())
    if available is not None and planned.num_bytes > available:
        raise ModelError(_too_large(planned.num_bytes, available, dtype))
    weights = _allocate(config, dtype, device)
    targets = weights.targets()
    _fill(targets, {name: stored[name] for name in stored if name in targets}, progress or _silent)
    return weights


def _silent(done: int, total: int) -> None:
    pass


def _too_large(needed: int, available: int, dtype: torch.dtype) -> str:
    narrower = ", or with --dtype bfloat16" if dtype.itemsize > 2 else ""
    return (
        f"The weights take {needed / _GIB:.2f} GiB in {str(dtype).removeprefix('torch.')}, and {available / _GIB:.2f} "
        "GiB are available of the machine's memory or the container's limit. Free memory, or serve a smaller model"
        f"{narrower}."
    )


def _allocate(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> ModelWeights:
    try:
        return allocate_weights(config, dtype, device)
    except (MemoryError, RuntimeError) as error:
        raise ModelError(
            f"The weights do not fit into the memory of {device}: {str(error).splitlines()[0][:200]} "
            "Serve a smaller model, or with --dtype bfloat16."
        ) from error


def _check(stored: Mapping[str, StoredTensor], targets: Mapping[str, torch.Tensor]) -> None:
    """A model that would be served only in part, or with weights left over, is refused."""
    missing = [name for name in targets if name not in stored]
    if missing:
        raise ModelError(f"The checkpoint lacks {_some(missing)}. Download or save the model again.")
    surplus = [name for name in stored if name not in targets and not _may_be_left(name)]
    if surplus:
        raise ModelError(
            f"The checkpoint has tensors that config.json does not account for: {_some(surplus)}. "
            "Do config.json and the weights belong together?"
        )
    for name, target in targets.items():
        if stored[name].shape != tuple(target.shape):
            raise ModelError(
                f"{name} has the shape {list(stored[name].shape)}; config.json says {list(target.shape)}. "
                "Do config.json and the weights belong together?"
            )
        if stored[name].dtype not in ITEM_BYTES:
            raise ModelError(f"{name} is {stored[name].dtype}; float32, bfloat16 and float16 weights are served.")


def _may_be_left(name: str) -> bool:
    return name.endswith(_DERIVED) or not name.startswith(("model.", "lm_head."))


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _fill(targets: Mapping[str, torch.Tensor], stored: Mapping[str, StoredTensor], progress: Progress) -> None:
    total = sum(tensor.num_bytes for tensor in stored.values())
    done = 0
    buffer = torch.empty(_PIECE_BYTES, dtype=torch.uint8)
    for path, names in _by_file(stored):
        with path.open("rb") as file:
            for name in names:
                _read_tensor(file, stored[name], targets[name], buffer)
                done += stored[name].num_bytes
                progress(done, total)


def _by_file(stored: Mapping[str, StoredTensor]) -> Iterable[tuple[Path, list[str]]]:
    files: dict[Path, list[str]] = {}
    for name, tensor in stored.items():
        files.setdefault(tensor.file, []).append(name)
    return files.items()


def _read_tensor(file: BinaryIO, source: StoredTensor, target: torch.Tensor, buffer: torch.Tensor) -> None:
    """Piece by piece through `buffer` (uint8): plain reads, because a mapped file that shrinks kills the process."""
    dtype = TORCH_TYPES[source.dtype]
    flat = target.view(-1)
    memory = memoryview(buffer.numpy())  # type: ignore[arg-type]
    file.seek(source.begin)
    done = 0
    while done < source.num_bytes:
        size = min(buffer.numel(), source.num_bytes - done)
        if file.readinto(memory[:size]) != size:  # type: ignore[attr-defined]
            raise ModelError(f"{source.file} ended while it was read. Download or save the model again.")
        first, end = done // dtype.itemsize, (done + size) // dtype.itemsize
        flat[first:end].copy_(buffer[:size].view(dtype))
        done += size
