"""Command R and R+: attention and MLP side by side on one norm, neighbouring dimensions turn together, scaled logits.

R+ norms each head of queries and keys with weights of its own. Source: transformers, models/cohere.
"""

from __future__ import annotations

from dataclasses import replace

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames, Scales

_MODULES = ModuleNames(mlp_norm=None)
_NORMED_HEADS = replace(_MODULES, q_norm="self_attn.q_norm", k_norm="self_attn.k_norm")


def _form(fields: ConfigFields) -> Form:
    has_bias = fields.flag("attention_bias", False)
    return Form(
        _NORMED_HEADS if fields.flag("use_qk_norm", False) else _MODULES,
        norm="layer",
        qk_norm="each_head",
        is_parallel=True,
        qkv_bias=has_bias,
        o_bias=has_bias,
        rotates_neighbours=True,
        scales=Scales(logits=fields.number("logit_scale", 0.0625)),
    )


COHERE = Family(
    "CohereForCausalLM",
    "cohere",
    _form,
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "rope_theta": 5e5,
        "tie_word_embeddings": True,
    },
    aliases={"rms_norm_eps": "layer_norm_eps"},
    reads=frozenset({"attention_bias", "logit_scale", "use_qk_norm"}),
)
