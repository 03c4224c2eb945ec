"""What a checkpoint holds of a head that config.json ties to the embedding: nothing, a copy, or another head.

Decides as transformers does when it loads the same files; knows nothing of the other weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import BinaryIO

import torch

from multiflora_engine.models.checkpoint import StoredTensor
from multiflora_engine.models.config import ModelConfig
from multiflora_engine.models.errors import ModelError

TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_PIECE_ELEMENTS = 4 << 20
_log = logging.getLogger(__name__)


def untangle_head(
    stored: Mapping[str, StoredTensor], config: ModelConfig, dtype: torch.dtype
) -> tuple[dict[str, StoredTensor], ModelConfig]:
    """The tensors to load and the config to load them with, of a model whose config.json ties its head.

    dtype: of the served weights; a head that equals the embedding in it is a copy. Raises ModelError for a file that
    ends too early.
    """
    tensors = dict(stored)
    head = tensors.pop(_HEAD, None)
    if head is None:
        return tensors, config
    embedding = tensors.setdefault(_EMBEDDING, head)
    if embedding is head or _are_equal(embedding, head, dtype):
        return tensors, config
    _log.warning(
        "config.json says tie_word_embeddings, but the checkpoint's lm_head.weight differs from its embedding: both "
        "are served as they are. Set tie_word_embeddings to false, or remove lm_head.weight if the head is a leftover."
    )
    return dict(stored), replace(config, tie_word_embeddings=False)


def _are_equal(one: StoredTensor, other: StoredTensor, dtype: torch.dtype) -> bool:
    if one.shape != other.shape or not {one.dtype, other.dtype} <= TORCH_TYPES.keys():
        return False  # the loader's own checks say what is wrong
    total = one.num_bytes // TORCH_TYPES[one.dtype].itemsize
    with one.file.open("rb") as first, other.file.open("rb") as second:
        return all(
            torch.equal(
                _read(first, one, begin, min(_PIECE_ELEMENTS, total - begin)).to(dtype),
                _read(second, other, begin, min(_PIECE_ELEMENTS, total - begin)).to(dtype),
            )
            for begin in range(0, total, _PIECE_ELEMENTS)
        )


def _read(file: BinaryIO, source: StoredTensor, begin: int, count: int) -> torch.Tensor:
    dtype = TORCH_TYPES[source.dtype]
    file.seek(source.begin + begin * dtype.itemsize)
    content = bytearray(file.read(count * dtype.itemsize))
    if len(content) != count * dtype.itemsize:
        raise ModelError(f"{source.file} ended while it was read. Download or save the model again.")
    return torch.frombuffer(content, dtype=dtype)
