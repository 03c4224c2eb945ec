"""GPT-J: attention and MLP side by side on one norm, neighbouring dimensions turn together.

Source: transformers, models/gptj.
"""

from __future__ import annotations

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames
from multiflora_engine.models.families.gpt_like.gpt2 import WORDS, inner_size

_MODULES = ModuleNames(
    embedding="transformer.wte",
    layers="transformer.h",
    input_norm="ln_1",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    o="attn.out_proj",
    mlp_norm=None,
    up=("mlp.fc_in",),
    down="mlp.fc_out",
    norm="transformer.ln_f",
    root="transformer.",
    derived=("attn.bias", "attn.masked_bias"),
)


def _form(fields: ConfigFields) -> Form:
    return Form(
        _MODULES,
        norm="layer",
        norm_has_bias=True,
        is_parallel=True,
        is_gated=False,
        is_multi_head=True,
        up_bias=True,
        down_bias=True,
        head_bias=True,
        rotates_neighbours=True,
        rotates_part_of_a_head=True,
        rotary_dim=fields.integer("rotary_dim"),
    )


GPTJ = Family(
    "GPTJForCausalLM",
    "gptj",
    _form,
    defaults={"rms_norm_eps": 1e-5, "hidden_act": "gelu_new", "rotary_dim": 64},
    aliases=WORDS,
    derive=inner_size,
    reads=frozenset({"rotary_dim"}),
    ignores=frozenset({"attn_pdrop", "rotary"}),
)
