"""GLM-4: half of each head turns, neighbouring dimensions together; from 0414 on, outputs are normed, too.

Source: transformers, models/glm and models/glm4.
"""

from __future__ import annotations

from dataclasses import replace

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(up=("mlp.gate_up_proj",))
_NORMED_OUTPUTS = replace(
    _MODULES, attention_output_norm="post_self_attn_layernorm", mlp_output_norm="post_mlp_layernorm"
)


def _form(fields: ConfigFields) -> Form:
    has_bias = fields.flag("attention_bias", True)
    return Form(_MODULES, qkv_bias=has_bias, rotates_neighbours=True, rotates_part_of_a_head=True)


def _form_with_normed_outputs(fields: ConfigFields) -> Form:
    return replace(_form(fields), modules=_NORMED_OUTPUTS)


GLM = Family(
    "GlmForCausalLM",
    "glm",
    _form,
    defaults={
        "rms_norm_eps": 1.5625e-7,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "partial_rotary_factor": 0.5,
    },
    reads=frozenset({"attention_bias"}),
)

GLM4 = replace(GLM, name="Glm4ForCausalLM", model_type="glm4", form=_form_with_normed_outputs)
