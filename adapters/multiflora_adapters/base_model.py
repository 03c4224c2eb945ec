"""What the adapter format needs to know of a base model: the modules LoRA may touch, and its digest. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

SiteKind = Literal["linear", "embedding"]


def model_name(source: str) -> str:
    """The last part of a path or a hub id, in small letters: where a model lies differs from machine to machine."""
    return source.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()


@dataclass(frozen=True)
class SitePart:
    """What one of several ranks has of a linear: some outputs of all inputs, or all outputs of some inputs, which the
    ranks sum."""

    whole: Site
    rows: tuple[tuple[int, int], ...] | None = None  # [first, end) of the whole's outputs as served; None: all
    columns: tuple[int, int] | None = None  # [first, end) of its inputs; None: all

    @property
    def adds_biases(self) -> bool:
        """Of what is summed, one rank's product has them."""
        return self.columns is None or self.columns[0] == 0


@dataclass(frozen=True)
class Site:
    """One module of the checkpoint that LoRA may touch. The engine lists a model's sites."""

    name: str  # as in the checkpoint: model.layers.0.self_attn.q_proj
    in_features: int  # of an embedding: the vocabulary's size
    out_features: int  # of an embedding: the hidden size
    layer: int | None = None  # None: the embedding or the head
    kind: SiteKind = "linear"  # "embedding" is that of the tokens
    has_bias: bool = False  # whether the base adds one, which an adapter may have trained
    row_order: tuple[int, ...] | None = None  # output i as served is row row_order[i] of the checkpoint; None: it is i
    reaches_kv: bool = True  # whether any key or value may depend on its output
    part: SitePart | None = None  # of a linear that is divided among ranks, this rank's; None: the site is whole

    @property
    def stored_shape(self) -> tuple[int, int]:
        """[out, in] of the checkpoint's linear."""
        whole = self if self.part is None else self.part.whole
        return whole.out_features, whole.in_features

    def with_rows(self, rows: tuple[tuple[int, int], ...]) -> Site:
        """The part of a linear that gives these of its outputs, as ranges of them as they are served."""
        order = _rows_in(rows, self.row_order)
        return replace(self, out_features=len(order), row_order=order, part=SitePart(self, rows=rows))

    def with_columns(self, first: int, end: int) -> Site:
        """The part of a linear that reads these of its inputs."""
        return replace(self, in_features=end - first, part=SitePart(self, columns=(first, end)))


@cache
def _rows_in(ranges: tuple[tuple[int, int], ...], order: tuple[int, ...] | None) -> tuple[int, ...]:
    """Of an order (None: as they come) the places in these ranges; a model has thousands of linears with the same."""
    kept = [row for first, end in ranges for row in range(first, end)]
    return tuple(kept) if order is None else tuple(order[row] for row in kept)


@dataclass(frozen=True)
class ExpertLinear:
    """One linear of all experts of a layer, which an adapter's weights on the device are kept for; the engine lists
    them."""

    name: str  # in the checkpoint, less the expert's number: model.layers.0.mlp.experts.gate_proj
    sites: tuple[Site, ...]  # of each expert, by its number

    @property
    def out_features(self) -> int:
        return self.sites[0].out_features


@dataclass(frozen=True)
class SparseLayer:
    """Router and experts of one layer, by the checkpoint's names and by those of transformers 5, which PEFT's newest
    files have: to it neither is a linear."""

    router: str  # the router's site
    router_in_transformers: str  # model.layers.0.mlp.gate, whose parameter is its weight
    experts: str  # the module that holds the experts
    experts_in_transformers: str  # model.layers.0.mlp.experts, whose parameters are gate_up_proj and down_proj
    up: tuple[ExpertLinear, ...]  # gate and up: the rows of gate_up_proj of each expert
    down: ExpertLinear
    is_in_out: bool = False  # the parameters are [experts, in, out] in transformers, not [experts, out, in]

    @property
    def linears(self) -> tuple[ExpertLinear, ...]:
        return *self.up, self.down


@dataclass(frozen=True)
class BaseModel:
    """The base model as adapters see it."""

    name: str
    architecture: str
    digest: str  # SHA-256 hex of config.json and the weight files' own digests
    num_layers: int
    sites: Mapping[str, Site]  # by name
    embedding: str = "model.embed_tokens"  # the token embedding's site
    head: str | None = "lm_head"  # the head's site; None: no adapter may touch the head
    is_head_tied: bool = False  # the head's weight is the embedding
    sparse_layers: tuple[SparseLayer, ...] = ()

    def site(self, module: str) -> Site | None:
        """The site of a module by any of its names, an expert's linear included; None for what no adapter may touch."""
        name = self.own_name(module)
        return self.sites.get(name) or self._expert_sites.get(name)

    def own_name(self, module: str) -> str:
        """The checkpoint's name of a module that is, or is part of, what transformers 5 calls otherwise."""
        parts = module.split(".")
        for end in range(1, len(parts) + 1 if self.sparse_layers else 0):
            if (own := self._mixtures.get(".".join(parts[:end]))) is not None:
                return ".".join([own, *parts[end:]])
        return module

    def weight_in_transformers(self, site: str) -> str:
        """What transformers 5 calls the weight of a linear."""
        return f"{self._routers.get(site, site)}.weight"

    def is_in_mixture(self, module: str) -> bool:
        """Whether it is a router, all experts of a layer, or a part of them."""
        parts = module.split(".")
        return any(".".join(parts[:end]) in self._mixtures for end in range(1, len(parts) + 1))

    @property
    def routers(self) -> Set[str]:
        """Sites of routers."""
        return self._routers.keys()

    @cached_property
    def expert_places(self) -> Mapping[str, tuple[ExpertLinear, int]]:
        """Of each expert's linear, by its site's name: which linear of which expert it is."""
        linears = (linear for layer in self.sparse_layers for linear in layer.linears)
        return {site.name: (linear, expert) for linear in linears for expert, site in enumerate(linear.sites)}

    @cached_property
    def all_sites(self) -> Mapping[str, Site]:
        """With each expert's."""
        return {**self.sites, **self._expert_sites}

    @cached_property
    def _expert_sites(self) -> dict[str, Site]:
        return {name: linear.sites[expert] for name, (linear, expert) in self.expert_places.items()}

    @cached_property
    def _mixtures(self) -> dict[str, str]:
        """Routers and experts by every name they have -> the checkpoint's."""
        names: dict[str, str] = {}
        for layer in self.sparse_layers:
            names |= {layer.router: layer.router, layer.router_in_transformers: layer.router}
            names |= {layer.experts: layer.experts, layer.experts_in_transformers: layer.experts}
        return names

    @cached_property
    def _routers(self) -> dict[str, str]:
        return {layer.router: layer.router_in_transformers for layer in self.sparse_layers}
