"""Command R: attention and MLP side by side on one norm, neighbouring dimensions turn together, scaled logits.

Source: transformers, models/cohere.
"""

from __future__ import annotations

from multiflora_engine.models.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames, Scales

_MODULES = ModuleNames(mlp_norm=None)


def _form(fields: ConfigFields) -> Form:
    if fields.flag("use_qk_norm", False):
        raise ModelError("config.json: use_qk_norm is true (Command R+), which is not served.")
    has_bias = fields.flag("attention_bias", False)
    return Form(
        _MODULES,
        norm="layer",
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
