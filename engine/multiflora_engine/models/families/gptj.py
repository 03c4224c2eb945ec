"""GPT-J: attention and MLP side by side on one norm, neighbouring dimensions turn together.

Source: transformers, models/gptj.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

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
    )


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    hidden = raw.get("n_embd")
    return {"intermediate_size": 4 * hidden} if raw.get("n_inner") is None and isinstance(hidden, int) else {}


GPTJ = Family(
    "GPTJForCausalLM",
    "gptj",
    _form,
    defaults={"rms_norm_eps": 1e-5, "hidden_act": "gelu_new", "rotary_dim": 64},
    aliases={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "hidden_act": "activation_function",
        "rms_norm_eps": "layer_norm_epsilon",
    },
    derive=_derive,
    reads=frozenset({"rotary_dim"}),
    ignores=frozenset({"attn_pdrop", "rotary"}),
)
