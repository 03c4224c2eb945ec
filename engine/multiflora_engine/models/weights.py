"""The weights of one decoder on one device: q, k, v and gate, up stacked, and where each checkpoint tensor goes.

Knows neither files nor how the weights are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from multiflora_engine.models.config import ModelConfig


@dataclass(frozen=True)
class Projection:
    """One matrix product. weight: [N, K]; bias: [N] or None.

    sites: (name, first column, end column) of y = x W^T + b for each of the checkpoint's linears that it stacks.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    sites: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class LayerWeights:
    """input_norm, post_norm: [H]; q_norm, k_norm: [head_dim] or None; the projections in the order of their use."""

    input_norm: torch.Tensor
    qkv: Projection
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    o: Projection
    post_norm: torch.Tensor
    gate_up: Projection
    down: Projection
    sliding_window: int | None


@dataclass(frozen=True)
class ModelWeights:
    """embed_tokens: [V, H], which is also the head's weight when they are tied. norm: [H]."""

    embed_tokens: torch.Tensor
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    lm_head: Projection

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.dtype

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.device

    @property
    def num_bytes(self) -> int:
        """Bytes of all weights; tied ones count once."""
        tensors = {id(tensor): tensor.nbytes for tensor in self._whole_tensors()}
        return sum(tensors.values())

    def base_weight(self, site: str) -> torch.Tensor:
        """The [out, in] weight (of `model.embed_tokens`: [V, H]) that an adapter's site modifies; a view."""
        if site == "model.embed_tokens":
            return self.embed_tokens
        for projection in self._projections():
            for name, first, end in projection.sites:
                if name == site:
                    return projection.weight[first:end]
        raise KeyError(site)

    def targets(self) -> dict[str, torch.Tensor]:
        """Checkpoint tensor name -> the (contiguous) view that it fills."""
        targets = {"model.embed_tokens.weight": self.embed_tokens, "model.norm.weight": self.norm}
        for index, layer in enumerate(self.layers):
            norms = {
                "input_layernorm": layer.input_norm,
                "post_attention_layernorm": layer.post_norm,
                "self_attn.q_norm": layer.q_norm,
                "self_attn.k_norm": layer.k_norm,
            }
            targets |= {f"model.layers.{index}.{name}.weight": t for name, t in norms.items() if t is not None}
        for projection in self._projections():
            if projection.weight is self.embed_tokens:
                continue
            for name, first, end in projection.sites:
                targets[f"{name}.weight"] = projection.weight[first:end]
                if projection.bias is not None:
                    targets[f"{name}.bias"] = projection.bias[first:end]
        return targets

    def _projections(self) -> Iterator[Projection]:
        for layer in self.layers:
            yield from (layer.qkv, layer.o, layer.gate_up, layer.down)
        yield self.lm_head

    def _whole_tensors(self) -> Iterator[torch.Tensor]:
        yield from (self.embed_tokens, self.norm)
        for layer in self.layers:
            yield from (t for t in (layer.input_norm, layer.post_norm, layer.q_norm, layer.k_norm) if t is not None)
        for projection in self._projections():
            yield projection.weight
            if projection.bias is not None:
                yield projection.bias


def allocate_weights(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> ModelWeights:
    """Uninitialised weights in the config's shapes."""
    return _Allocator(config, dtype, device).model()


class _Allocator:
    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._config = config
        self._dtype = dtype
        self._device = device

    def model(self) -> ModelWeights:
        config = self._config
        embed_tokens = self._empty(config.vocab_size, config.hidden_size)
        head = embed_tokens if config.tie_word_embeddings else self._empty(config.vocab_size, config.hidden_size)
        return ModelWeights(
            embed_tokens=embed_tokens,
            layers=tuple(self._layer(index) for index in range(config.num_layers)),
            norm=self._empty(config.hidden_size),
            lm_head=Projection(head, None, (("lm_head", 0, config.vocab_size),)),
        )

    def _layer(self, index: int) -> LayerWeights:
        config = self._config
        head_norms = [self._empty(config.head_dim) if config.has_qk_norm else None for _ in range(2)]
        return LayerWeights(
            input_norm=self._empty(config.hidden_size),
            qkv=self._projection(index, ("qkv_proj", "q_proj", "k_proj", "v_proj"), config.qkv_bias),
            q_norm=head_norms[0],
            k_norm=head_norms[1],
            o=self._projection(index, ("o_proj",), config.o_bias),
            post_norm=self._empty(config.hidden_size),
            gate_up=self._projection(index, ("gate_up_proj", "gate_proj", "up_proj"), config.mlp_bias),
            down=self._projection(index, ("down_proj",), config.mlp_bias),
            sliding_window=config.sliding_windows[index],
        )

    def _projection(self, layer: int, parts: tuple[str, ...], has_bias: bool) -> Projection:
        sites = [site for site in self._config.layer_sites(layer) if site.name.rpartition(".")[2] in parts]
        ranges, rows = [], 0
        for site in sites:
            ranges.append((site.name, rows, rows + site.out_features))
            rows += site.out_features
        bias = self._empty(rows) if has_bias else None
        return Projection(self._empty(rows, sites[0].in_features), bias, tuple(ranges))

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)
