"""Decoder layers: how attention, MLP, norms and the residual are joined. Which one a family has, its form says."""

from __future__ import annotations

import torch

from multiflora_engine.core.rank_group import RankGroup
from multiflora_engine.models.blocks.block import Block, ForwardStep, LayerCache
from multiflora_engine.models.blocks.linear import Linear, Sites
from multiflora_engine.models.blocks.norms import Norm, make_norm, optional_norm
from multiflora_engine.models.blocks.sublayers import SelfAttention, make_mlp
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.weights import LayerWeights, ModelWeights
from multiflora_kernels.lora.fused_linear import FullDelta, completed


class SequentialBlock:
    """A `Block`: attention, then MLP, each before its sum with the residual. Semantics, for x = norm(residual):

    residual' = residual + f(o(attention(x))); residual'' = residual' + g(mlp(mlp_norm(residual')));
    returns (next_norm(residual''), residual''). f and g are the norms of outputs where the family has them, and the
    factor of what joins the residual.
    """

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        weights: LayerWeights,
        next_norm: Norm,
        sites: Sites | None,
        ranks: RankGroup | None,
    ) -> None:
        """next_norm: the input norm of the next layer, or the model's last norm. ranks: that each have a part of the
        heads and of the MLP's inside, and sum what both halves give."""
        self._attention = SelfAttention(config, layer, weights, sites, ranks)
        self._o = Linear(weights.o, sites)
        self._attention_output_norm = optional_norm(config, weights.attention_output_norm)
        self._mlp_norm = make_norm(config, weights.mlp_norm)
        self._mlp = make_mlp(config, weights.mlp, sites)
        self._mlp_output_norm = optional_norm(config, weights.mlp_output_norm)
        self._next_norm = next_norm
        self._scale = config.form.scales.residual
        self._ranks = ranks

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, step: ForwardStep, cache: LayerCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Block`."""
        x = self._attention(x, step, cache)
        if step.kept_rows is not None:
            # From here on each token is on its own: rows whose results the step does not use are not computed.
            x, residual = x[step.kept_rows], residual[step.kept_rows]
        output = self._finished(*self._o.with_full_delta(x, step.kept_lora), self._attention_output_norm)
        x, residual = self._mlp_norm.add(output[0], residual, delta=output[1])
        output = self._finished(*self._mlp(x, step.kept_lora), self._mlp_output_norm)
        return self._next_norm.add(output[0], residual, delta=output[1])

    def _finished(
        self, y: torch.Tensor, delta: FullDelta | None, norm: Norm | None
    ) -> tuple[torch.Tensor, FullDelta | None]:
        """What joins the residual, and what of it is still to be added."""
        if norm is None and self._scale == 1.0 and self._ranks is None:
            return y, delta
        y = completed(y, delta)
        if self._ranks is not None:
            self._ranks.sum_(y)
        y = y if norm is None else norm.apply(y)
        return (y if self._scale == 1.0 else y * self._scale), None


class ParallelBlock:
    """A `Block`: attention and MLP side by side. Semantics, for x = norm(residual):

    residual' = residual + o(attention(x)) + mlp(z), where z is mlp_norm(residual), or x where the family has one norm;
    returns (next_norm(residual'), residual').
    """

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        weights: LayerWeights,
        next_norm: Norm,
        sites: Sites | None,
        ranks: RankGroup | None,
    ) -> None:
        """next_norm: the input norm of the next layer, or the model's last norm. ranks: that each have a part of the
        heads and of the MLP's inside, and sum what both halves give."""
        self._attention = SelfAttention(config, layer, weights, sites, ranks)
        self._o = Linear(weights.o, sites)
        self._mlp_norm = optional_norm(config, weights.mlp_norm)
        self._mlp = make_mlp(config, weights.mlp, sites)
        self._next_norm = next_norm
        self._ranks = ranks

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, step: ForwardStep, cache: LayerCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Block`."""
        attended = self._attention(x, step, cache)
        if step.kept_rows is not None:
            attended, x, residual = attended[step.kept_rows], x[step.kept_rows], residual[step.kept_rows]
        y = self._o(attended, step.kept_lora)
        z, delta = self._mlp(x if self._mlp_norm is None else self._mlp_norm.apply(residual), step.kept_lora)
        y = y + z
        if self._ranks is not None:
            y, delta = completed(y, delta), None
            self._ranks.sum_(y)
        return self._next_norm.add(y, residual, delta=delta)


def make_blocks(
    config: ModelConfig, weights: ModelWeights, last_norm: Norm, sites: Sites | None, ranks: RankGroup | None
) -> list[Block]:
    """All layers that are here, in order. last_norm: over what the last one gives."""
    kind = ParallelBlock if config.form.is_parallel else SequentialBlock
    next_norms = [*(make_norm(config, layer.input_norm) for layer in weights.layers[1:]), last_norm]
    layers = zip(config.layers, weights.layers, next_norms, strict=True)
    return [kind(config, index, layer, next_norm, sites, ranks) for index, layer, next_norm in layers]
