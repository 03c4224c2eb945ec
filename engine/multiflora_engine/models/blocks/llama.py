"""The layer of Llama and its kin: attention, then MLP, each before its sum with the residual."""

from __future__ import annotations

import torch

from multiflora_engine.models.blocks.block import Block, ForwardStep, LayerCache
from multiflora_engine.models.blocks.linear import Linear, Sites
from multiflora_engine.models.blocks.sublayers import GatedMlp, SelfAttention
from multiflora_engine.models.config import ModelConfig
from multiflora_engine.models.weights import LayerWeights, ModelWeights
from multiflora_kernels.rms_norm import add_rms_norm


class LlamaBlock:
    """A `Block`. Semantics, for x = norm(residual):

    residual' = residual + o(attention(x)); residual'' = residual' + mlp(post_norm(residual'));
    returns (next_norm(residual''), residual'').
    """

    def __init__(
        self, config: ModelConfig, weights: LayerWeights, next_norm: torch.Tensor, sites: Sites | None
    ) -> None:
        """next_norm: [H], the input norm of the next layer, or the model's last norm."""
        self._attention = SelfAttention(config, weights, sites)
        self._o = Linear(weights.o, sites)
        self._post_norm = weights.post_norm
        self._mlp = GatedMlp(config.activation, weights, sites)
        self._next_norm = next_norm
        self._eps = config.rms_norm_eps

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, step: ForwardStep, cache: LayerCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Block`."""
        x = self._attention(x, step, cache)
        if step.kept_rows is not None:
            # From here on each token is on its own: rows whose results the step does not use are not computed.
            x, residual = x[step.kept_rows], residual[step.kept_rows]
        x, delta = self._o.with_full_delta(x, step.kept_lora)
        x, residual = add_rms_norm(x, residual, self._post_norm, self._eps, delta)
        x, delta = self._mlp(x, step.kept_lora)
        return add_rms_norm(x, residual, self._next_norm, self._eps, delta)


def llama_blocks(config: ModelConfig, weights: ModelWeights, sites: Sites | None) -> list[Block]:
    """All layers of a model, in order."""
    next_norms = [*(layer.input_norm for layer in weights.layers[1:]), weights.norm]
    pairs = zip(weights.layers, next_norms, strict=True)
    return [LlamaBlock(config, layer, next_norm, sites) for layer, next_norm in pairs]
