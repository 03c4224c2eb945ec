"""What the decoder asks of a layer, and what it gives to all layers of a step. Another kind of layer is another class.

Knows neither weights nor what happens inside a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from multiflora_kernels.attention.step import AttentionStep
from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.rope.step import RopeStep

LayerCache = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer, each [blocks, Hk, block_size, D]."""


@dataclass(frozen=True)
class ForwardStep:
    """One step as layers see it: T tokens, of which some may end in the last layer. The decoder makes it."""

    ropes: tuple[RopeStep, ...]  # in the order of the configuration's
    attention: Mapping[int | None, AttentionStep]  # by sliding window; None: the layers that see all
    lora: LoraSegments | None  # adapters of the T tokens; None when all are the base's
    kept_rows: torch.Tensor | None  # [L] int64: tokens that go on after attention; only the last layer has any to drop
    kept_lora: LoraSegments | None  # adapters of what goes on: of the L tokens, or of all T


class Block(Protocol):
    """One decoder layer.

    x: [T, H], the input of attention, which the norm before this layer has already gone over; residual: [T, H].
    Returns (x, residual), [L, H] each: the next layer's input, normed, and what it was normed from. The norm between
    two layers belongs to the first of them, so that one kernel adds the layer's output to the residual and norms it.
    Writes keys and values of all T tokens to the cache before it attends: sequences of one step that share a prefix
    see each other's blocks.
    """

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, step: ForwardStep, cache: LayerCache
    ) -> tuple[torch.Tensor, torch.Tensor]: ...
