"""The norms of layers as one kind of object, whatever their formula. Know neither names nor files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from multiflora_engine.core.rank_group import RankGroup
from multiflora_engine.core.shard import Span
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.weights import LayerWeights, NormWeights
from multiflora_kernels.layer_norm import add_layer_norm, layer_norm, layer_norm_of_heads
from multiflora_kernels.lora.fused_linear import FullDelta, completed
from multiflora_kernels.rms_norm import add_rms_norm, rms_norm
from multiflora_kernels.rope.qk_norm import QKNorm


class Apply(Protocol):
    def __call__(self, x: torch.Tensor, /) -> torch.Tensor:
        """x: [T, H] -> [T, H]."""
        ...


class Add(Protocol):
    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, /, *, delta: FullDelta | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x, residual: [T, H]; delta: what is still to be added to x. Returns (normed, x + residual)."""
        ...


@dataclass(frozen=True)
class Norm:
    """A norm over the last dimension, alone and after the residual sum before it."""

    apply: Apply
    add: Add


def _sum_alone(
    x: torch.Tensor, residual: torch.Tensor, *, delta: FullDelta | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    total = completed(x, delta) + residual
    return total, total


NO_NORM = Norm(apply=lambda x: x, add=_sum_alone)
"""Where a layer reads the residual itself."""


def optional_norm(config: ModelConfig, weights: NormWeights | None) -> Norm | None:
    if weights is None:
        return None
    if config.form.norm == "layer":
        values: dict[str, Any] = {"weight": weights.weight, "bias": weights.bias, "eps": config.norm_eps}
        return Norm(partial(layer_norm, **values), partial(add_layer_norm, **values))
    scaled: dict[str, Any] = {"weight": weights.weight, "eps": config.norm_eps}
    return Norm(partial(rms_norm, **scaled), partial(add_rms_norm, **scaled))


def make_norm(config: ModelConfig, weights: NormWeights | None) -> Norm:
    return optional_norm(config, weights) or NO_NORM


def fused_head_norms(config: ModelConfig, weights: LayerWeights) -> QKNorm | None:
    """The norms of query and key heads that are computed together with their rotation."""
    if weights.q_norm is None or weights.k_norm is None or config.form.norm != "rms" or config.form.qk_norm != "head":
        return None
    return QKNorm(weights.q_norm.weight, weights.k_norm.weight, config.norm_eps)


def head_norms(config: ModelConfig, weights: LayerWeights, ranks: RankGroup | None) -> tuple[Apply, Apply] | None:
    """Other norms of queries [T, Hq, D] and keys [T, Hk, D], before their rotation. ranks: each has some heads."""
    if weights.q_norm is None or weights.k_norm is None:
        return None
    q, k = weights.q_norm, weights.k_norm
    return _head_norm(config, q, config.heads, ranks), _head_norm(config, k, config.kv_heads, ranks)


def _head_norm(config: ModelConfig, weights: NormWeights, heads: Span, ranks: RankGroup | None) -> Apply:
    """heads: those of the weights that are served here."""
    if config.form.qk_norm == "all_heads":
        if ranks is not None:
            return _norm_over_ranks(config, weights, heads, ranks)
        whole = make_norm(config, weights)
        return lambda x: whole.apply(x.flatten(1)).view(x.shape)
    assert config.form.norm == "layer", "each head with weights of its own: only layer norms are so"
    weight, bias = weights.weight, weights.bias
    if weight.dim() > 1:
        weight, bias = weight[slice(*heads)], None if bias is None else bias[slice(*heads)]
    return partial(layer_norm_of_heads, weight=weight, bias=bias, eps=config.norm_eps)


def _norm_over_ranks(config: ModelConfig, weights: NormWeights, heads: Span, ranks: RankGroup) -> Apply:
    """An RMS norm of all heads' values, of which this rank has some; see `rms_norm_reference`."""
    assert config.form.norm == "rms", "only RMS norms go over all heads"
    first, end = (place * config.head_dim for place in heads)
    own = weights.weight[first:end]
    # Where there are fewer key-value heads than ranks, several ranks have, and sum, the same one.
    values = (end - first) * ranks.size

    def apply(x: torch.Tensor) -> torch.Tensor:
        wide = x.flatten(1).float()
        squares = wide.square().sum(-1, keepdim=True)
        ranks.sum_(squares)
        normed = wide * torch.rsqrt(squares / values + config.norm_eps)
        return (own * normed.to(own.dtype)).to(x.dtype).view(x.shape)

    return apply
