"""What config.json and generation_config.json say of a base model, checked, in one shape for all families. Torch-free.

Knows neither weights nor devices; gateway and engine read the same object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from multiflora_adapters.base_model import BaseModel, ExpertLinear, Site, SparseLayer
from multiflora_engine.core.shard import ModelStage, RankPlace, Shard, Span, why_indivisible
from multiflora_engine.models.checkpoint import model_digest
from multiflora_engine.models.configuration.rope_config import RopeConfig
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.form import Form
from multiflora_engine.models.families.mixture import EXPERTS, Mixture, MixtureNames
from multiflora_engine.models.families.qkv_order import head_order, own_rows, qkv_order
from multiflora_engine.models.quantisation.settings import Quantisation

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class MlpSites:
    """The linears of one MLP; `ModelConfig` makes it."""

    up: tuple[Site, ...]  # whose stacked result the activation reads: gate, then up
    down: Site


@dataclass(frozen=True)
class ModelPart:
    """What a rank's configuration is a part of; `ModelConfig.shard` makes it."""

    whole: ModelConfig
    shard: Shard

    def mlp(self, sites: MlpSites) -> MlpSites:
        """This rank's part of a whole MLP: the same columns of its inside in all linears."""
        size = sites.down.in_features
        first, end = self.shard.span(size)
        stacked = range(0, sites.up[0].out_features, size)  # gate and up, where one linear holds both
        rows = tuple((start + first, start + end) for start in stacked)
        return MlpSites(tuple(up.with_rows(rows) for up in sites.up), sites.down.with_columns(first, end))


@dataclass(frozen=True)
class ModelConfig:
    """One base model, filled by `load_model_config` alone: from its files, or where they are silent by its family. Or
    one rank's part of it, which `shard` makes."""

    folder: Path  # that holds config.json and the weights
    architecture: str  # by the name that transformers gives it: "LlamaForCausalLM"
    vocab_size: int  # rows of embedding and head, padding of the vocabulary included
    hidden_size: int  # H
    intermediate_size: int  # I, of the MLP's inside
    num_layers: int
    num_heads: int  # Hq
    num_kv_heads: int  # Hk; Hq / Hk query heads share one
    head_dim: int  # D, which need not be H / Hq
    norm_eps: float
    activation: Activation  # of the gate, or of all of an MLP that has none
    form: Form  # what the family's layers compute, and what the checkpoint calls their modules
    ropes: tuple[RopeConfig, ...]  # the rotations that its layers use; the first one says how long the model is
    rope_of_layer: tuple[int, ...]  # per layer, which of `ropes`
    sliding_windows: tuple[int | None, ...]  # per layer, how many tokens (itself included) a token sees; None: all
    tie_word_embeddings: bool  # the head's weight is the embedding's
    quantisation: Quantisation | None  # of the checkpoint; how it is served, storage.py decides
    dtype: str | None  # the checkpoint's: "float32", "bfloat16", "float16"; None: config.json does not say
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]  # any of them ends a generation
    generation_defaults: Mapping[str, float]  # sampling values of generation_config.json that can be used
    warnings: tuple[str, ...]  # what of the two files is ignored though it might matter; for the operator
    overrides: Mapping[str, Any] = field(default_factory=dict)  # the operator's, in the place of config.json's own
    part: ModelPart | None = None  # where ranks divide layers: heads and sizes above are this rank's
    stage: ModelStage | None = None  # where ranks have some layers each, of which these are its; all keep their numbers

    def shard(self, rank: int, size: int) -> ModelConfig:
        """The part that one of `size` ranks computes. Raises ModelError where the model cannot be divided so."""
        self.check_division(size)
        shard, form = Shard(rank, size), self.form
        heads, kv_heads = shard.span(self.num_heads), shard.kv_span(self.num_kv_heads)
        mixture = form.mixture
        if mixture is not None:
            shared = None if mixture.shared_size is None else mixture.shared_size // size
            mixture = replace(mixture, expert_size=mixture.expert_size // size, shared_size=shared)
        return replace(
            self,
            num_heads=heads[1] - heads[0],
            num_kv_heads=kv_heads[1] - kv_heads[0],
            intermediate_size=self.intermediate_size // size,
            form=replace(form, mixture=mixture, slopes=form.slopes[slice(*heads)]),
            part=ModelPart(self, shard),
        )

    def check_division(self, size: int) -> None:
        """Raises ModelError where so many ranks cannot compute it together."""
        divided = {"attention heads": self.num_heads}
        if any(self.mixture(layer) is None for layer in range(self.num_layers)):
            divided["MLP columns (intermediate_size)"] = self.intermediate_size
        if (mixture := self.form.mixture) is not None:
            divided["columns of each expert"] = mixture.expert_size
            if mixture.shared_size is not None:
                divided["columns of the shared expert"] = mixture.shared_size
        if (why := why_indivisible(size, divided, self.num_kv_heads)) is not None:
            raise ModelError(f"--tensor-parallel-size {size}: {why}")

    def at(self, place: RankPlace) -> ModelConfig:
        """What the rank at this place computes. Raises ModelError where the model cannot be divided so."""
        self.check_stages(place.stage.count)
        part = self if place.shard.size == 1 else self.shard(place.shard.rank, place.shard.size)
        return part if place.stage.count == 1 else replace(part, stage=place.stage)

    def check_stages(self, count: int) -> None:
        """Raises ModelError where there are more stages than layers."""
        if count > self.num_layers:
            raise ModelError(
                f"--pipeline-parallel-size {count}: the model has {self.num_layers} layers, and each stage takes one "
                f"at least. Choose {self.num_layers} or less."
            )

    @property
    def whole(self) -> ModelConfig:
        """The model that this is, or is a part of."""
        if self.part is not None:
            return self.part.whole
        return self if self.stage is None else replace(self, stage=None)

    @property
    def is_whole(self) -> bool:
        return self.part is None and self.stage is None

    @property
    def layers(self) -> range:
        """The numbers of the layers that are here."""
        return range(self.num_layers) if self.stage is None else self.stage.layers(self.num_layers)

    @property
    def has_ends(self) -> bool:
        """Whether embedding and head are here: the first stage has both, because the first rank samples."""
        return self.stage is None or self.stage.is_first

    @property
    def heads(self) -> Span:
        """Which query heads of the whole model these are."""
        return (0, self.num_heads) if self.part is None else self.part.shard.span(self.whole.num_heads)

    @property
    def kv_heads(self) -> Span:
        """Which key-value heads of the whole model these are."""
        return (0, self.num_kv_heads) if self.part is None else self.part.shard.kv_span(self.whole.num_kv_heads)

    def with_ends(self, token_ids: Iterable[int]) -> ModelConfig:
        """Any of these ends a generation, too: those of them that the model can produce."""
        known = [token for token in (*self.eos_token_ids, *token_ids) if 0 <= token < self.vocab_size]
        return replace(self, eos_token_ids=tuple(dict.fromkeys(known)))

    @property
    def max_position_embeddings(self) -> int:
        """The model's own length in tokens, which max_model_len defaults to."""
        return self.ropes[0].max_position_embeddings

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def module(self, layer: int, name: str) -> str:
        """The path of a module of one layer, in the checkpoint and for adapters."""
        return f"{self.form.modules.layers}.{layer}.{name}"

    def qkv_sites(self, layer: int) -> tuple[Site, ...]:
        """The linears of q, k and v; stacked in this order, each in its `row_order`, they are what attention reads."""
        if self.part is not None:
            return tuple(
                site.with_rows(rows)
                for site, rows in zip(self.whole.qkv_sites(layer), self._own_qkv_rows(), strict=True)
            )
        names = self.form.modules.qkv
        # Of each linear its rows, and whether keys or values are among them.
        parts = [(self.q_size, False), (self.kv_size, True), (self.kv_size, True)]
        if len(names) == 1:
            parts = [(self.q_size + 2 * self.kv_size, True)]
        order = self._qkv_order()
        sites, first = [], 0
        for name, (size, has_kv) in zip(names, parts, strict=True):
            rows = None if order is None else own_rows(order, first, first + size)
            site = self._site(layer, name, self.hidden_size, size, self.form.qkv_bias, rows)
            sites.append(replace(site, reaches_kv=True) if has_kv else site)
            first += size
        return tuple(sites)

    def _own_qkv_rows(self) -> list[tuple[Span, ...]]:
        """Of each linear of q, k and v, the rows of a rank's heads."""
        whole, size = self.whole, self.head_dim
        q, kv = [(first * size, end * size) for first, end in (self.heads, self.kv_heads)]
        if len(self.form.modules.qkv) > 1:
            return [(q,), (kv,), (kv,)]
        starts = whole.q_size, whole.q_size + whole.kv_size
        return [(q, *((start + kv[0], start + kv[1]) for start in starts))]

    def o_site(self, layer: int) -> Site:
        if self.part is not None:
            first, end = self.heads
            return self.whole.o_site(layer).with_columns(first * self.head_dim, end * self.head_dim)
        return self._site(layer, self.form.modules.o, self.q_size, self.hidden_size, self.form.o_bias)

    def mixture(self, layer: int) -> Mixture | None:
        """What the layer has in place of an MLP; None: it is dense."""
        mixture = self.form.mixture
        return mixture if mixture is not None and mixture.is_sparse(layer) else None

    def mlp_sites(self, layer: int) -> MlpSites | None:
        """Of what every token goes through: a dense layer's MLP, a sparse one's shared expert, which not all have."""
        if self.part is not None:
            sites = self.whole.mlp_sites(layer)
            return None if sites is None else self.part.mlp(sites)
        mixture = self.mixture(layer)
        if mixture is None:
            return self._mlp_sites(layer, self.form.modules.up, self.form.modules.down, self.intermediate_size)
        if mixture.shared_size is None:
            return None
        return self._expert_sites(layer, mixture.names, mixture.names.shared, mixture.shared_size)

    def expert_sites(self, layer: int, mixture: Mixture) -> tuple[MlpSites, ...]:
        """Of each expert of a sparse layer; mixture: the layer's."""
        if self.part is not None:
            whole = self.whole.mixture(layer)
            assert whole is not None, "ranks divide each expert"
            return tuple(self.part.mlp(sites) for sites in self.whole.expert_sites(layer, whole))
        names, size = mixture.names, mixture.expert_size
        sites = tuple(
            self._expert_sites(layer, names, f"{names.experts}.{expert}", size) for expert in range(mixture.num_experts)
        )
        if not mixture.has_biases and not mixture.is_interleaved:
            return sites
        order = (*range(0, 2 * size, 2), *range(1, 2 * size, 2)) if mixture.is_interleaved else None
        return tuple(
            MlpSites(
                tuple(replace(up, has_bias=mixture.has_biases, row_order=order) for up in expert.up),
                replace(expert.down, has_bias=mixture.has_biases),
            )
            for expert in sites
        )

    def expert_linears(self, layer: int, mixture: Mixture) -> tuple[tuple[ExpertLinear, ...], ExpertLinear]:
        """The same, linear by linear: gate and up, and down."""
        experts = self.expert_sites(layer, mixture)
        module = self.module(layer, mixture.names.experts)
        up = tuple(
            ExpertLinear(f"{module}.{name}", tuple(sites.up[place] for sites in experts))
            for place, name in enumerate(mixture.names.up)
        )
        return up, ExpertLinear(f"{module}.{mixture.names.down}", tuple(sites.down for sites in experts))

    def router_site(self, layer: int, mixture: Mixture) -> Site:
        """Of a sparse layer."""
        return self._site(layer, mixture.names.router, self.hidden_size, mixture.num_experts, mixture.has_biases)

    def experts_in_transformers(self, layer: int) -> str:
        """What transformers 5 calls the module that holds the experts of a layer, whatever the checkpoint does."""
        return self.module(layer, EXPERTS)

    def shared_gate_site(self, layer: int, mixture: Mixture) -> Site:
        """Of a sparse layer with a shared expert."""
        return self._site(layer, mixture.names.shared_gate, self.hidden_size, 1, has_bias=False)

    @property
    def head_site(self) -> Site:
        if self.part is not None:
            return self.whole.head_site.with_rows((self.part.shard.span(self.vocab_size),))
        modules, has_bias = self.form.modules, self.form.head_bias
        return Site(modules.head, self.hidden_size, self.vocab_size, has_bias=has_bias, reaches_kv=False)

    def layer_sites(self, layer: int) -> tuple[Site, ...]:
        """All linears of one layer that adapters may touch, but for those of experts (`expert_sites`)."""
        sites = (*self.qkv_sites(layer), self.o_site(layer))
        mlp, mixture = self.mlp_sites(layer), self.mixture(layer)
        router = () if mixture is None else (self.router_site(layer, mixture),)
        if mlp is None:
            return (*sites, *router)
        gate = () if mixture is None else (self.shared_gate_site(layer, mixture),)
        return (*sites, *router, *mlp.up, mlp.down, *gate)

    def _expert_sites(self, layer: int, names: MixtureNames, expert: str, size: int) -> MlpSites:
        return self._mlp_sites(layer, tuple(f"{expert}.{up}" for up in names.up), f"{expert}.{names.down}", size)

    def _mlp_sites(self, layer: int, up: tuple[str, ...], down: str, size: int) -> MlpSites:
        rows = (2 if self.form.is_gated else 1) * size // len(up)
        return MlpSites(
            tuple(self._site(layer, name, self.hidden_size, rows, self.form.up_bias) for name in up),
            self._site(layer, down, size, self.hidden_size, self.form.down_bias),
        )

    def _site(
        self, layer: int, name: str, k: int, n: int, has_bias: bool, row_order: tuple[int, ...] | None = None
    ) -> Site:
        # Only keys and values of its own layer, which the caller marks, and of those behind it can depend on a linear.
        reaches_kv = layer + 1 < self.num_layers
        module = self.module(layer, name)
        return Site(module, k, n, layer, has_bias=has_bias, row_order=row_order, reaches_kv=reaches_kv)

    @property
    def head_order(self) -> tuple[int, ...] | None:
        """Dimension i of a query or key head as served is dimension head_order[i] of the checkpoint's; None: it is i.
        Where neighbours turn together there, the engine turns i with i + half."""
        return head_order(self.head_dim, self.ropes[0].rotary_dim) if self.form.rotates_neighbours else None

    def _qkv_order(self) -> tuple[int, ...] | None:
        if not (self.form.qkv_is_grouped or self.form.rotates_neighbours):
            return None
        order = self.head_order or tuple(range(self.head_dim))
        return qkv_order(self.num_heads, self.num_kv_heads, order, self.form.qkv_is_grouped)

    def base_model(self, name: str, digest: str | None = None) -> BaseModel:
        """What adapters need to know. Without a digest of the weights, their files are hashed the first time (see
        `checkpoint.model_digest`); a configuration with overrides is another model's."""
        sites = {site.name: site for site in self._sites()}
        return BaseModel(
            name,
            self.architecture,
            digest or model_digest(self.folder, self.overrides),
            self.num_layers,
            sites,
            embedding=self.form.modules.embedding,
            head=None if self.form.head_is_normalised else self.form.modules.head,
            is_head_tied=self.tie_word_embeddings,
            sparse_layers=tuple(self._sparse_layers()),
        )

    def _sparse_layers(self) -> Iterator[SparseLayer]:
        for layer in self.layers:
            if (mixture := self.mixture(layer)) is not None:
                yield SparseLayer(
                    self.router_site(layer, mixture).name,
                    self.module(layer, mixture.names.router_in_transformers),
                    self.module(layer, mixture.names.experts),
                    self.experts_in_transformers(layer),
                    *self.expert_linears(layer, mixture),
                    is_in_out=mixture.is_interleaved,
                )

    def _sites(self) -> Iterator[Site]:
        if self.has_ends:
            yield Site(self.form.modules.embedding, self.vocab_size, self.hidden_size, kind="embedding")
        for layer in self.layers:
            yield from self.layer_sites(layer)
        if self.has_ends and not self.form.head_is_normalised:
            yield self.head_site
