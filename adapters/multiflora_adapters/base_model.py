"""What the adapter format needs to know of a base model: the modules LoRA may touch, and its digest. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SiteKind = Literal["linear", "embedding"]


@dataclass(frozen=True)
class Site:
    """One module of the checkpoint that LoRA may touch, named as in the checkpoint.

    For example `model.layers.0.self_attn.q_proj` with in_features 512, out_features 512. kind "embedding" is
    `model.embed_tokens`: in_features is the vocabulary size, out_features the hidden size.
    layer is None for embed_tokens and lm_head.
    """

    name: str
    in_features: int
    out_features: int
    layer: int | None = None
    kind: SiteKind = "linear"


@dataclass(frozen=True)
class BaseModel:
    """The base model as adapters see it. digest: SHA-256 hex of config.json and the weight files' own digests."""

    name: str
    architecture: str
    digest: str
    num_layers: int
    sites: Mapping[str, Site]
