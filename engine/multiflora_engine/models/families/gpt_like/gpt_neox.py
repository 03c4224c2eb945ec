"""GPT-NeoX (Pythia, Dolly): attention and MLP side by side, q, k and v of each head stored together.

Source: transformers, models/gpt_neox.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(
    embedding="gpt_neox.embed_in",
    layers="gpt_neox.layers",
    qkv=("attention.query_key_value",),
    o="attention.dense",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    norm="gpt_neox.final_layer_norm",
    root="gpt_neox.",
    stored_head="embed_out",
    derived=("attention.bias", "attention.masked_bias"),
)


def _form(fields: ConfigFields) -> Form:
    has_bias = fields.flag("attention_bias", True)
    return Form(
        _MODULES,
        norm="layer",
        norm_has_bias=True,
        is_parallel=fields.flag("use_parallel_residual", True),
        is_gated=False,
        is_multi_head=True,
        qkv_bias=has_bias,
        o_bias=has_bias,
        up_bias=True,
        down_bias=True,
        qkv_is_grouped=True,
        rotates_part_of_a_head=True,
    )


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {"partial_rotary_factor": raw.get("rotary_pct", 0.25), "rope_theta": raw.get("rotary_emb_base", 10000)}


GPT_NEOX = Family(
    "GPTNeoXForCausalLM",
    "gpt_neox",
    _form,
    defaults={"rms_norm_eps": 1e-5, "hidden_act": "gelu"},
    aliases={"rms_norm_eps": "layer_norm_eps"},
    derive=_derive,
    reads=frozenset({"attention_bias", "use_parallel_residual", "rotary_pct", "rotary_emb_base"}),
    ignores=frozenset({"hidden_dropout", "classifier_dropout"}),
)
