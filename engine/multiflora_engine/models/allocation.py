"""Makes the uninitialised weights of a model, or of a rank's part, in the shapes that its configuration asks for.

Decides neither the forms nor the dtype, and fills nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from multiflora_adapters.base_model import Site
from multiflora_engine.models.configuration.model_config import MlpSites, ModelConfig
from multiflora_engine.models.families.mixture import Mixture
from multiflora_engine.models.weights import (
    EndWeights,
    ExpertStack,
    LayerWeights,
    MixtureWeights,
    MlpWeights,
    ModelWeights,
    NormWeights,
    Projection,
    Sinks,
    tied_rows,
)
from multiflora_kernels.linear.bfloat16 import BFloat16Weight
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.quantised import IntegerForm, QuantisedWeight
from multiflora_kernels.linear.weight import LinearWeight

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
            lm_head=self._head(tied_rows(config.head_site, embed_tokens) if config.tie_word_embeddings else None),
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
