"""What a checkpoint holds of a head that config.json ties to the embedding: nothing, a copy, or another head.

Decides as transformers does when it loads the same files; knows nothing of the other weights.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.quantisation.dense_source import DenseSource

_log = logging.getLogger(__name__)


def untangle_head(
    sources: Mapping[str, DenseSource], config: ModelConfig, dtype: torch.dtype
) -> tuple[dict[str, DenseSource], ModelConfig]:
    """The tensors to load and the config to load them with, of a model whose config.json ties its head.

    dtype: of the served weights; a head that equals the embedding in it is a copy. Raises ModelError for a file that
    ends too early.
    """
    modules = config.form.modules
    name = f"{modules.head}.weight"
    tensors = dict(sources)
    head = tensors.pop(name, None)
    if head is None:
        return tensors, config
    embedding = tensors.setdefault(f"{modules.embedding}.weight", head)
    if embedding is head or _are_equal(embedding, head, dtype):
        return tensors, config
    _log.warning(
        "config.json says tie_word_embeddings, but the checkpoint's %s differs from its embedding: both are served as "
        "they are. Set tie_word_embeddings to false, or remove %s if the head is a leftover.",
        name,
        name,
    )
    return dict(sources), replace(config, tie_word_embeddings=False)


def _are_equal(one: DenseSource, other: DenseSource, dtype: torch.dtype) -> bool:
    if one.shape != other.shape or len(one.shape) != 2 or 0 in one.shape:
        return False  # the loader's own checks say what is wrong, here and below
    try:
        one.check()
        other.check()
    except ModelError:
        return False
    return all(torch.equal(first.to(dtype), second.to(dtype)) for first, second in _side_by_side(one, other))


def _side_by_side(one: DenseSource, other: DenseSource) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same rows of both: sources in different forms come in pieces of different sizes."""
    second = torch.empty(0, one.shape[-1])
    others = other.pieces()
    for first in one.pieces():
        while len(first):
            second = second if len(second) else next(others)
            rows = min(len(first), len(second))
            yield first[:rows], second[:rows]
            first, second = first[rows:], second[rows:]
