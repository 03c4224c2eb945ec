"""What the adapter format needs to know of a base model: the modules LoRA may touch, and its digest. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SiteKind = Literal["linear", "embedding"]


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
    mixtures: frozenset[str] = frozenset()  # routers and experts, by every name they have: no adapter may touch them

    def is_in_mixture(self, module: str) -> bool:
        """Whether it is a router, all experts of a layer, or a part of them."""
        parts = module.split(".")
        return any(".".join(parts[:end]) in self.mixtures for end in range(1, len(parts) + 1))
