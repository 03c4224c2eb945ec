"""The weights of one decoder on one device: q, k, v and gate, up stacked, and where each checkpoint tensor goes.

Knows neither files nor how the weights are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from multiflora_engine.models.config import ModelConfig
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.weight import LinearWeight


@dataclass(frozen=True)
class Projection:
    """One matrix product y = x W^T + bias, of one or several of the checkpoint's linears stacked."""

    weight: LinearWeight  # [N, K]
    bias: torch.Tensor | None  # [N]
    sites: tuple[tuple[str, int, int], ...]  # the linears by their names in the checkpoint: (name, first, end column)


@dataclass(frozen=True)
class LayerWeights:
    """One layer, in the order of use. `allocate_weights` makes it, the loader fills it."""

    input_norm: torch.Tensor  # [H], of the attention's input
    qkv: Projection  # q, k and v stacked: [(Hq + 2 Hk) * D, H]
    q_norm: torch.Tensor | None  # [D], of each query head before the rotation; None in families without
    k_norm: torch.Tensor | None  # [D], the same of key heads
    o: Projection  # [H, Hq * D]
    post_norm: torch.Tensor  # [H], of the MLP's input
    gate_up: Projection  # gate and up stacked: [2 I, H]
    down: Projection  # [H, I]
    sliding_window: int | None  # tokens that a token of this layer sees, itself included; None: all before it


@dataclass(frozen=True)
class ModelWeights:
    """One model. `allocate_weights` makes it, the loader fills it; afterwards nothing changes it."""

    embed_tokens: torch.Tensor  # [V, H]
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor  # [H], after the last layer
    lm_head: Projection  # [V, H]
    is_head_tied: bool  # the head's weight is embed_tokens itself: stored and counted once

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.dtype

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.device

    @property
    def num_bytes(self) -> int:
        """Bytes of all weights; tied ones count once."""
        products = sum(projection.weight.nbytes for projection in self._own_projections())
        return products + sum(tensor.nbytes for tensor in self._vectors()) + self.embed_tokens.nbytes

    def base_weight(self, site: str) -> torch.Tensor:
        """The [out, in] weight (of `model.embed_tokens`: [V, H]) that an adapter's site modifies: of dense weights a
        view. Raises KeyError for a name that is no site."""
        if site == "model.embed_tokens":
            return self.embed_tokens
        projection, first, end = self._place(site)
        return projection.weight.dequantised_rows(first, end)

    def base_bias(self, site: str) -> torch.Tensor:
        """The [out] bias of a linear, a view. Raises KeyError for a name that is no linear with a bias."""
        projection, first, end = self._place(site)
        if projection.bias is None:
            raise KeyError(site)
        return projection.bias[first:end]

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
        for projection in self._own_projections():
            for name, first, end in projection.sites:
                stored = projection.weight.stored_rows(first, end)
                targets |= {f"{name}.{ending}": tensor for ending, tensor in stored.items()}
                if projection.bias is not None:
                    targets[f"{name}.bias"] = projection.bias[first:end]
        return targets

    def _place(self, site: str) -> tuple[Projection, int, int]:
        """A linear's projection, and its rows there."""
        for projection in self._projections():
            for name, first, end in projection.sites:
                if name == site:
                    return projection, first, end
        raise KeyError(site)

    def _projections(self) -> Iterator[Projection]:
        for layer in self.layers:
            yield from (layer.qkv, layer.o, layer.gate_up, layer.down)
        yield self.lm_head

    def _own_projections(self) -> Iterator[Projection]:
        """Those that have a weight of their own."""
        return (p for p in self._projections() if not (self.is_head_tied and p is self.lm_head))

    def _vectors(self) -> Iterator[torch.Tensor]:
        """Norms and biases."""
        yield self.norm
        for layer in self.layers:
            yield from (t for t in (layer.input_norm, layer.post_norm, layer.q_norm, layer.k_norm) if t is not None)
        yield from (p.bias for p in self._projections() if p.bias is not None)


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
            lm_head=Projection(DenseWeight(head), None, (("lm_head", 0, config.vocab_size),)),
            is_head_tied=config.tie_word_embeddings,
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
        return Projection(DenseWeight(self._empty(rows, sites[0].in_features)), bias, tuple(ranges))

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)
