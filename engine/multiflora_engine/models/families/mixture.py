"""Layers whose MLP is a mixture of experts: how many, which of them a token goes to, how checkpoints call them.

Torch-free data, like the rest of a form.
"""

from __future__ import annotations

from dataclasses import dataclass

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError

EXPERTS = "mlp.experts"
"""What transformers 5 calls the module in every family, and so do checkpoints and adapters that it saves."""


@dataclass(frozen=True)
class MixtureNames:
    """Modules of a sparse layer, below `layers`.N of `ModuleNames`. Every default is Qwen's."""

    router: str = "mlp.gate"
    router_in_transformers: str = "mlp.gate"  # what transformers 5 calls it
    experts: str = EXPERTS  # each expert stands below it by its number
    up: tuple[str, ...] = ("gate_proj", "up_proj")  # of an expert, the shared one too; gate first
    down: str = "down_proj"
    shared: str = "mlp.shared_expert"
    shared_gate: str = "mlp.shared_expert_gate"


@dataclass(frozen=True)
class ClampedGate:
    """In place of an activation, as gpt-oss has it: see `clamped_swiglu`."""

    alpha: float
    limit: float


@dataclass(frozen=True)
class Mixture:
    """What sparse layers compute: the sum of a token's top_k experts, weighted by the router, and a shared expert."""

    num_experts: int
    top_k: int  # experts that each token goes to
    expert_size: int  # of an expert's inside
    is_normalised: bool  # the weights of the chosen experts sum to one
    shared_size: int | None = None  # of the expert that sees every token, behind a gate of its own; None: there is none
    sparse_step: int = 1  # every so many layers are sparse
    dense_layers: frozenset[int] = frozenset()  # those among them that are not
    names: MixtureNames = MixtureNames()
    has_biases: bool = False  # router and experts add them
    gate: ClampedGate | None = None  # of experts; None: the configuration's activation
    is_interleaved: bool = False  # experts are stored [in, out], and rows of gate and up take turns in one linear

    def is_sparse(self, layer: int) -> bool:
        return (layer + 1) % self.sparse_step == 0 and layer not in self.dense_layers


def read_top_k(fields: ConfigFields, num_experts: int, default: int) -> int:
    """num_experts_per_tok. Raises ModelError where there are not so many experts."""
    top_k = fields.integer("num_experts_per_tok", default)
    if top_k > num_experts:
        raise ModelError(f"config.json: num_experts_per_tok is {top_k}, but there are {num_experts} experts.")
    return top_k


def read_qwen_mixture(fields: ConfigFields, *, shared_size: int | None, **defaults: int) -> Mixture | None:
    """The mixture that Qwen's configuration classes describe; None when they leave no experts.

    defaults: of num_experts, num_experts_per_tok and moe_intermediate_size.
    """
    num_experts = fields.integer("num_experts", defaults["num_experts"], minimum=0)
    if num_experts == 0:
        return None
    return Mixture(
        num_experts,
        read_top_k(fields, num_experts, defaults["num_experts_per_tok"]),
        fields.integer("moe_intermediate_size", defaults["moe_intermediate_size"]),
        is_normalised=fields.flag("norm_topk_prob", False),
        shared_size=shared_size,
        sparse_step=fields.integer("decoder_sparse_step", 1),
        dense_layers=frozenset(fields.integers("mlp_only_layers", ())),
    )
