"""The weights of one decoder on one device: q, k, v and gate, up stacked, and where each checkpoint tensor goes.

Knows neither files nor how the weights are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from multiflora_adapters.base_model import Site
from multiflora_engine.models.config import MlpSites, ModelConfig
from multiflora_engine.models.families.mixture import Mixture
from multiflora_engine.models.targets import Target, WeightTarget, weight_target
from multiflora_kernels.linear.bfloat16 import BFloat16Weight
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.quantised import IntegerForm, QuantisedWeight
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
            rows = _rows_of(self.lm_head.sites[0][0], self.embed_tokens)
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


def _rows_of(site: Site, embedding: torch.Tensor) -> torch.Tensor:
    """The rows of an embedding that a head which is tied to it has, a view."""
    if site.part is None or site.part.rows is None:
        return embedding
    ((first, end),) = site.part.rows
    return embedding[first:end]


FormOf = Callable[[Sequence[Site]], IntegerForm | torch.dtype | None]
"""What a product of these linears, stacked, is kept as: integers, bfloat16, or (None) a tensor of the served dtype."""


def _dense(sites: Sequence[Site]) -> None:
    return None


def allocate_weights(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, form_of: FormOf = _dense
) -> ModelWeights:
    """Uninitialised weights in the config's shapes."""
    return _Allocator(config, dtype, device, form_of).model()


class _Allocator:
    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, form_of: FormOf) -> None:
        self._config = config
        self._form = config.form
        self._names = config.form.modules
        self._dtype = dtype
        self._device = device
        self._form_of = form_of

    def model(self) -> ModelWeights:
        return ModelWeights(
            dtype=self._dtype,
            device=self._device,
            layers=tuple(self._layer(index) for index in self._config.layers),
            own_ends=self._ends() if self._config.has_ends else None,
        )

    def _ends(self) -> EndWeights:
        config, names = self._config, self._names
        is_narrow = self._form_of([config.head_site]) == torch.bfloat16
        embed_tokens = self._empty(
            config.vocab_size, config.hidden_size, dtype=torch.bfloat16 if is_narrow else self._dtype
        )
        positions = None
        if names.position_embedding is not None:
            positions = self._empty(config.max_position_embeddings + self._form.position_offset, config.hidden_size)
        norm = self._norm(names.norm, config.hidden_size)
        assert norm is not None, "every model has a last norm"
        return EndWeights(
            embedding_site=names.embedding,
            embed_tokens=embed_tokens,
            position_site=names.position_embedding,
            embed_positions=positions,
            embedding_norm=self._norm(names.embedding_norm, config.hidden_size),
            norm=norm,
            lm_head=self._head(_rows_of(config.head_site, embed_tokens) if config.tie_word_embeddings else None),
            is_head_tied=config.tie_word_embeddings,
        )

    def _head(self, tied: torch.Tensor | None) -> Projection:
        site, form = self._config.head_site, self._form
        bias = self._empty(site.out_features) if form.head_bias else None
        weight = self._product([site], (site.out_features, site.in_features), tied)
        return Projection(weight, bias, ((site, 0, site.out_features),), is_normalised=form.head_is_normalised)

    def _layer(self, index: int) -> LayerWeights:
        config, form, names = self._config, self._form, self._names
        hidden = config.hidden_size

        def norm(name: str | None) -> NormWeights | None:
            return self._norm(None if name is None else config.module(index, name), hidden)

        return LayerWeights(
            input_norm=norm(names.input_norm),
            qkv=self._projection(config.qkv_sites(index), form.qkv_bias),
            q_norm=self._head_norm(index, names.q_norm, config.whole.num_heads),
            k_norm=self._head_norm(index, names.k_norm, config.whole.num_kv_heads),
            sinks=self._attention_sinks(index),
            o=self._projection([config.o_site(index)], form.o_bias),
            attention_output_norm=norm(names.attention_output_norm),
            mlp_norm=norm(names.mlp_norm),
            mlp=self._mlp(index),
            mlp_output_norm=norm(names.mlp_output_norm),
        )

    def _mlp(self, index: int) -> MlpWeights | MixtureWeights:
        mixture, sites = self._config.mixture(index), self._config.mlp_sites(index)
        own = None if sites is None else self._dense_mlp(sites)
        if mixture is None:
            assert own is not None, "a dense layer has an MLP"
            return own
        router = self._projection([self._config.router_site(index, mixture)], mixture.has_biases)
        gate = (
            None if own is None else self._projection([self._config.shared_gate_site(index, mixture)], has_bias=False)
        )
        up, down = self._config.expert_linears(index, mixture)
        names = tuple(linear.name for linear in up), down.name
        of_experts = self._config.expert_sites(index, mixture)
        up_stack, ups = self._experts([one.up for one in of_experts], mixture)
        down_stack, downs = self._experts([[one.down] for one in of_experts], mixture)
        experts = tuple(MlpWeights(*pair) for pair in zip(ups, downs, strict=True))
        return MixtureWeights(mixture, *names, router, experts, up_stack, down_stack, own, gate)

    def _dense_mlp(self, sites: MlpSites) -> MlpWeights:
        form = self._form
        return MlpWeights(self._projection(sites.up, form.up_bias), self._projection([sites.down], form.down_bias))

    def _experts(
        self, linears: Sequence[Sequence[Site]], mixture: Mixture
    ) -> tuple[ExpertStack | None, list[Projection]]:
        """linears: of each expert, those that are stacked."""
        stack = self._stack(linears, mixture)
        made = []
        for index, sites in enumerate(linears):
            weight, bias = None, None
            if stack is not None:
                rows = stack.weight.shape[0] // len(linears)
                weight = stack.weight.rows(index * rows, (index + 1) * rows)
                bias = None if stack.bias is None else stack.bias[index]
            projection = self._projection(sites, mixture.has_biases, weight, bias)
            made.append(replace(projection, is_transposed=mixture.is_interleaved))
        return stack, made

    def _stack(self, linears: Sequence[Sequence[Site]], mixture: Mixture) -> ExpertStack | None:
        rows, inputs = sum(site.out_features for site in linears[0]), linears[0][0].in_features
        form, *others = {self._form_of(sites) for sites in linears}
        if others or isinstance(form, torch.dtype):
            return None
        weight = self._weight(form, (len(linears) * rows, inputs))
        return ExpertStack(weight, self._empty(len(linears), rows) if mixture.has_biases else None)

    def _norm(self, name: str | None, size: int) -> NormWeights | None:
        if name is None:
            return None
        bias = self._empty(size) if self._form.norm_has_bias else None
        return NormWeights(name, self._norm_weight(size), bias, self._form.norm_adds_one)

    def _head_norm(self, index: int, name: str | None, heads: int) -> NormWeights | None:
        if name is None:
            return None
        kind, head, order = self._form.qk_norm, self._config.head_dim, self._config.head_order
        assert kind != "all_heads" or order is None, "no family has both: the order is that of one head"
        shape = {"head": (head,), "each_head": (heads, head), "all_heads": (heads * head,)}[kind]
        bias = self._empty(*shape) if self._form.qk_norm_has_bias else None
        place = self._config.module(index, name)
        return NormWeights(place, self._norm_weight(*shape), bias, self._form.norm_adds_one, order)

    def _attention_sinks(self, index: int) -> Sinks | None:
        if self._names.sinks is None:
            return None
        values = self._empty(self._config.whole.num_heads, dtype=torch.float32)
        return Sinks(self._config.module(index, self._names.sinks), values)

    def _norm_weight(self, *shape: int) -> torch.Tensor:
        return self._empty(*shape, dtype=torch.float32 if self._form.norm_in_float32 else self._dtype)

    def _projection(
        self,
        sites: Sequence[Site],
        has_bias: bool,
        weight: LinearWeight | None = None,
        bias: torch.Tensor | None = None,
    ) -> Projection:
        """weight, bias: where they lie; None: in memory of their own."""
        ranges, rows = [], 0
        for site in sites:
            ranges.append((site, rows, rows + site.out_features))
            rows += site.out_features
        if bias is None and has_bias:
            bias = self._empty(rows)
        if weight is None:
            weight = self._product(sites, (rows, sites[0].in_features))
        return Projection(weight, bias, tuple(ranges), self._form.is_transposed)

    def _product(
        self, sites: Sequence[Site], shape: tuple[int, int], values: torch.Tensor | None = None
    ) -> LinearWeight:
        """values: where the weight lies if it is dense."""
        form = self._form_of(sites)
        if isinstance(form, torch.dtype):
            return BFloat16Weight(self._narrow(shape, values))
        return self._weight(form, shape, values)

    def _weight(
        self, form: IntegerForm | None, shape: tuple[int, int], values: torch.Tensor | None = None
    ) -> DenseWeight | QuantisedWeight:
        if form is not None:
            return QuantisedWeight.empty(form, shape, self._dtype, self._device)
        return DenseWeight(self._empty(*shape) if values is None else values)

    def _narrow(self, shape: tuple[int, int], values: torch.Tensor | None) -> torch.Tensor:
        if values is not None and values.dtype == torch.bfloat16:
            return values
        return self._empty(*shape, dtype=torch.bfloat16)

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype or self._dtype, device=self._device)
