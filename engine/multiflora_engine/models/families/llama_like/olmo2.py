"""OLMo 2: norms over what attention and MLP give, none over what they read; queries and keys normed as a whole.

Source: transformers, models/olmo2.
"""

from __future__ import annotations

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(
    input_norm=None,
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
    attention_output_norm="post_attention_layernorm",
    mlp_norm=None,
    mlp_output_norm="post_feedforward_layernorm",
)


def _form(fields: ConfigFields) -> Form:
    has_bias = fields.flag("attention_bias", False)
    return Form(_MODULES, norm_in_float32=True, qk_norm="all_heads", qkv_bias=has_bias, o_bias=has_bias)


OLMO2 = Family(
    "Olmo2ForCausalLM",
    "olmo2",
    _form,
    defaults={"rms_norm_eps": 1e-5},
    reads=frozenset({"attention_bias"}),
)
