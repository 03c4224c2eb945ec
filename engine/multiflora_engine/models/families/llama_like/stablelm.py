"""StableLM 2 and StableLM 3B: layer norms, a quarter of each head turns; in 2 12B, heads are normed, too.

Source: transformers, models/stablelm.
"""

from __future__ import annotations

from dataclasses import replace

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_SIDE_BY_SIDE = ModuleNames(mlp_norm=None)


def _form(fields: ConfigFields) -> Form:
    is_parallel = fields.flag("use_parallel_residual", False)
    modules = _SIDE_BY_SIDE if is_parallel else ModuleNames()
    if fields.flag("qk_layernorm", False):
        modules = replace(modules, q_norm="self_attn.q_layernorm.norms.{}", k_norm="self_attn.k_layernorm.norms.{}")
    return Form(
        modules,
        norm="layer",
        qk_norm="each_head",
        norm_has_bias=True,
        is_parallel=is_parallel,
        qkv_bias=fields.flag("use_qkv_bias", False),
        rotates_part_of_a_head=True,
    )


STABLELM = Family(
    "StableLmForCausalLM",
    "stablelm",
    _form,
    defaults={
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "partial_rotary_factor": 0.25,
    },
    aliases={"rms_norm_eps": "layer_norm_eps"},
    reads=frozenset({"qk_layernorm", "use_parallel_residual", "use_qkv_bias"}),
    ignores=frozenset({"hidden_dropout"}),
)
