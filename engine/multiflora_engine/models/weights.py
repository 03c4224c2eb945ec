"""The weights of one decoder on one device: q, k, v and gate, up stacked, and where each checkpoint tensor goes.

Knows neither files nor how the weights are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from multiflora_adapters.base_model import Site
from multiflora_engine.models.families.mixture import Mixture
from multiflora_engine.models.targets import Target, WeightTarget, weight_target
from multiflora_kernels.linear.bfloat16 import BFloat16Weight
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.quantised import QuantisedWeight
from multiflora_kernels.linear.weight import LinearWeight

_ROWS_AT_ONCE = 4096
"""Of an embedding, while it is quantised: a vocabulary in float32 may not fit beside the model."""


@dataclass(frozen=True)
class Projection:
    """One matrix product y = x W^T + bias, of one or several of the checkpoint's linears stacked."""

    weight: LinearWeight  # [N, K]
    bias: torch.Tensor | None  # [N]
    sites: tuple[tuple[Site, int, int], ...]  # the checkpoint's linears: (site, first, end column)
    is_transposed: bool = False  # the checkpoint stores [K, N]
    is_normalised: bool = False  # rows of the weight are those of the checkpoint, divided by their lengths

    def targets(self) -> Iterator[tuple[str, WeightTarget]]:
        """Checkpoint tensor name -> the part that it fills."""
        for site, first, end in self.sites:
            target = weight_target(self.weight, first, end, site, self.is_transposed, self.is_normalised)
            yield f"{site.name}.weight", target
            if self.bias is not None:
                yield f"{site.name}.bias", Target(self.bias[first:end], site.row_order, part=site.part)

    @property
    def adds_bias(self) -> bool:
        """False where the product is one of several that ranks sum, and another rank's has the bias."""
        return all(site.part is None or site.part.adds_biases for site, _, _ in self.sites)


@dataclass(frozen=True)
class NormWeights:
    """One norm of the checkpoint."""

    name: str  # its module there; with a {}, the module of each row
    weight: torch.Tensor  # what the normed values are multiplied by: [H], or [heads, D] where each head has its own
    bias: torch.Tensor | None  # what is added then; None in families without
    adds_one: bool  # the checkpoint holds weight - 1
    column_order: tuple[int, ...] | None = None  # as of a `Target`

    def tensors(self) -> Iterator[torch.Tensor]:
        yield self.weight
        if self.bias is not None:
            yield self.bias

    def targets(self) -> Iterator[tuple[str, Target]]:
        for ending, tensor, offset in (("weight", self.weight, float(self.adds_one)), ("bias", self.bias, 0.0)):
            if tensor is None:
                continue
            parts = enumerate(tensor) if "{}" in self.name else [(0, tensor)]
            for head, part in parts:
                target = Target(part, column_order=self.column_order, offset=offset)
                yield f"{self.name.format(head)}.{ending}", target


@dataclass(frozen=True)
class MlpWeights:
    """One MLP: a layer's, or an expert's."""

    up: Projection  # gate and up stacked: [2 I, H]; without a gate [I, H]
    down: Projection  # [H, I]

    @property
    def projections(self) -> tuple[Projection, ...]:
        return self.up, self.down

    @property
    def is_grouped(self) -> bool:
        """Whether a launch or two compute it, whatever its tokens are."""
        return True


@dataclass(frozen=True)
class ExpertStack:
    """One linear, or several stacked, of all experts, in one piece of memory."""

    weight: DenseWeight | QuantisedWeight  # [E * N, K], expert by expert
    bias: torch.Tensor | None  # [E, N]


@dataclass(frozen=True)
class MixtureWeights:
    """What a sparse layer has in place of an MLP."""

    mixture: Mixture
    up_linears: tuple[str, ...]  # what adapters call gate and up of all experts (`ExpertLinear.name`)
    down_linear: str
    router: Projection  # [E, H]
    experts: tuple[MlpWeights, ...]
    up: ExpertStack | None  # of which the experts are views; None: not all of them are kept alike
    down: ExpertStack | None  # likewise
    shared: MlpWeights | None  # sees every token; None in families without
    shared_gate: Projection | None  # [1, H]; None likewise

    @property
    def is_grouped(self) -> bool:
        """Whether kernels can multiply all experts at once."""
        return self.up is not None and self.down is not None

    @property
    def projections(self) -> tuple[Projection, ...]:
        experts = (projection for expert in self.experts for projection in expert.projections)
        shared = () if self.shared is None else self.shared.projections
        return (self.router, *experts, *shared, *(() if self.shared_gate is None else (self.shared_gate,)))


@dataclass(frozen=True)
class Sinks:
    """A layer's attention sinks (gpt-oss): to each head a score more, whose value is nothing."""

    name: str  # in the checkpoint
    values: torch.Tensor  # [Hq] float32, of all ranks' heads


@dataclass(frozen=True)
class LayerWeights:
    """One layer, in the order of use; norms are [H] but for those of heads, and None in families without.
    `allocate_weights` makes it, the loader fills it."""

    input_norm: NormWeights | None  # of the attention's input
    qkv: Projection  # q, k and v stacked: [(Hq + 2 Hk) * D, H]
    # [D], of query heads before the rotation; [Hq, D] or [Hq * D] as `Form.qk_norm` says, of all ranks' heads
    q_norm: NormWeights | None
    k_norm: NormWeights | None  # the same of key heads
    sinks: Sinks | None  # of attention; None in families without
    o: Projection  # [H, Hq * D]
    attention_output_norm: NormWeights | None  # of the attention's output
    mlp_norm: NormWeights | None  # of the MLP's input
    mlp: MlpWeights | MixtureWeights
    mlp_output_norm: NormWeights | None  # of the MLP's output

    @property
    def projections(self) -> tuple[Projection, ...]:
        return (self.qkv, self.o, *self.mlp.projections)

    def norms(self) -> Iterator[NormWeights]:
        own = (self.input_norm, self.q_norm, self.k_norm, self.attention_output_norm, self.mlp_norm)
        yield from (norm for norm in (*own, self.mlp_output_norm) if norm is not None)


@dataclass(frozen=True)
class EndWeights:
    """What stands before the layers and behind them."""

    embedding_site: str  # the token embedding's name in the checkpoint
    embed_tokens: torch.Tensor  # [V, H]
    position_site: str | None  # the name of the learned positions; None in families without
    embed_positions: torch.Tensor | None  # [positions, H]
    embedding_norm: NormWeights | None  # [H], before the first layer
    norm: NormWeights  # [H], after the last layer
    lm_head: Projection  # [V, H]
    is_head_tied: bool  # the head's values are those of embed_tokens: the same tensor, or integers made of it

    @property
    def num_bytes(self) -> int:
        """Bytes of the two matrices; a tied one counts once."""
        head = self.lm_head.weight
        is_shared = self.is_head_tied and not isinstance(head, QuantisedWeight)
        return self.embed_tokens.nbytes + (0 if is_shared else head.nbytes)

    def quantise_tied_head_(self) -> None:
        """Once the embedding is there: a head that is kept in integers of it."""
        head = self.lm_head.weight
        if self.is_head_tied and isinstance(head, QuantisedWeight):
            rows = tied_rows(self.lm_head.sites[0][0], self.embed_tokens)
            for first in range(0, len(rows), _ROWS_AT_ONCE):
                head.quantise_(first, rows[first : first + _ROWS_AT_ONCE])

    def norms(self) -> Iterator[NormWeights]:
        if self.embedding_norm is not None:
            yield self.embedding_norm
        yield self.norm

    def targets(self) -> Iterator[tuple[str, WeightTarget]]:
        """Checkpoint tensor name -> what it fills, but for the norms."""
        yield f"{self.embedding_site}.weight", Target(self.embed_tokens)
        if self.embed_positions is not None:
            yield f"{self.position_site}.weight", Target(self.embed_positions)
        if not self.is_head_tied:
            yield from self.lm_head.targets()
        elif self.lm_head.bias is not None:
            site = self.lm_head.sites[0][0]
            yield f"{site.name}.bias", Target(self.lm_head.bias, site.row_order, part=site.part)


@dataclass(frozen=True)
class ModelWeights:
    """One model, or the part of a rank. `allocate_weights` makes it, the loader fills it; afterwards nothing changes
    it."""

    dtype: torch.dtype  # of activations; linears and embeddings may be narrower, norms wider
    device: torch.device
    layers: tuple[LayerWeights, ...]
    own_ends: EndWeights | None  # None: another stage has them

    @property
    def rounds_activations(self) -> bool:
        """Whether products are of activations rounded to bfloat16 or further, beside float32."""
        weight = self.layers[0].qkv.weight
        return isinstance(weight, BFloat16Weight | QuantisedWeight) and weight.rounds_activations

    @property
    def kv_dtype(self) -> torch.dtype:
        """Of keys and values, where nothing else is asked for."""
        return torch.bfloat16 if self.rounds_activations else self.dtype

    @property
    def ends(self) -> EndWeights:
        assert self.own_ends is not None, "who asks has seen that they are here"
        return self.own_ends

    @property
    def num_bytes(self) -> int:
        """Bytes of all weights; tied ones count once."""
        layers = sum(projection.weight.nbytes for layer in self.layers for projection in layer.projections)
        ends = 0 if self.own_ends is None else self.own_ends.num_bytes
        return layers + ends + sum(tensor.nbytes for tensor in self._other_tensors())

    def base_weight(self, site: str) -> torch.Tensor:
        """The [out, in] weight (of the token embedding [V, H]) that an adapter's site modifies, its rows as they are
        served: of dense weights a view. Raises KeyError for a name that is no site."""
        if self.own_ends is not None and site == self.own_ends.embedding_site:
            return self.own_ends.embed_tokens
        projection, first, end = self._place(site)
        return projection.weight.dequantised_rows(first, end)

    def base_bias(self, site: str) -> torch.Tensor:
        """The [out] bias of a linear, a view. Raises KeyError for a name that is no linear with a bias."""
        projection, first, end = self._place(site)
        if projection.bias is None:
            raise KeyError(site)
        return projection.bias[first:end]

    def is_exact(self, site: str) -> bool:
        """Whether `base_weight` has the checkpoint's values, not integers made of them."""
        is_embedding = self.own_ends is not None and site == self.own_ends.embedding_site
        return is_embedding or isinstance(self._place(site)[0].weight, DenseWeight)

    def leave_biases_to_first_rank_(self) -> None:
        """Once all is there: of products that ranks sum, one adds the bias."""
        for projection in self._projections():
            if projection.bias is not None and not projection.adds_bias:
                projection.bias.zero_()

    def targets(self) -> dict[str, WeightTarget]:
        """Checkpoint tensor name -> what it fills."""
        targets: dict[str, WeightTarget] = {} if self.own_ends is None else dict(self.own_ends.targets())
        for norm in self._norms():
            targets |= norm.targets()
        targets |= {sinks.name: Target(sinks.values) for sinks in self._sinks()}
        for layer in self.layers:
            for projection in layer.projections:
                targets |= projection.targets()
        return targets

    def _place(self, site: str) -> tuple[Projection, int, int]:
        """A linear's projection, and its rows there."""
        return self._places[site]

    @cached_property
    def _places(self) -> dict[str, tuple[Projection, int, int]]:
        """By site: a mixture has thousands, and a DoRA adapter asks for hundreds."""
        return {site.name: (p, first, end) for p in self._projections() for site, first, end in p.sites}

    def _projections(self) -> Iterator[Projection]:
        for layer in self.layers:
            yield from layer.projections
        if self.own_ends is not None:
            yield self.own_ends.lm_head

    def _norms(self) -> Iterator[NormWeights]:
        for layer in self.layers:
            yield from layer.norms()
        if self.own_ends is not None:
            yield from self.own_ends.norms()

    def _sinks(self) -> Iterator[Sinks]:
        yield from (layer.sinks for layer in self.layers if layer.sinks is not None)

    def _other_tensors(self) -> Iterator[torch.Tensor]:
        """Norms, sinks, biases and positions."""
        yield from (sinks.values for sinks in self._sinks())
        for norm in self._norms():
            yield from norm.tensors()
        yield from (p.bias for p in self._projections() if p.bias is not None)
        if self.own_ends is not None and self.own_ends.embed_positions is not None:
            yield self.own_ends.embed_positions


def tied_rows(site: Site, embedding: torch.Tensor) -> torch.Tensor:
    """The rows of an embedding that a head which is tied to it has, a view."""
    if site.part is None or site.part.rows is None:
        return embedding
    ((first, end),) = site.part.rows
    return embedding[first:end]
