"""Baichuan: Llama whose q, k and v are stored stacked; 13B has ALiBi, Baichuan2 a head of normalised rows.

Source: the models' own modeling_baichuan.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.alibi import alibi_slopes
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(qkv=("self_attn.W_pack",))
_SECOND_VOCABULARY = 125696


def _form(fields: ConfigFields) -> Form:
    # Both say that the file is of Baichuan2; files of the hub have the first alone.
    is_second = fields.integer("vocab_size") == _SECOND_VOCABULARY or fields.given("z_loss_weight")
    if is_second:
        fields.require("tie_word_embeddings", served=False)
    form = Form(_MODULES, is_multi_head=True, head_is_normalised=is_second)
    # Only the code of 7B, which turns heads, knows this key.
    if fields.given("turns_heads"):
        return form
    return replace(form, rotates=False, slopes=alibi_slopes(fields.integer("num_attention_heads")))


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    if raw.get("max_position_embeddings") is not None:
        return {"turns_heads": True}
    return {"max_position_embeddings": raw.get("model_max_length", 4096)}


BAICHUAN = Family(
    "BaichuanForCausalLM",
    "baichuan",
    _form,
    defaults={"rms_norm_eps": 1e-6},
    derive=_derive,
    reads=frozenset({"z_loss_weight"}),
    ignores=frozenset({"_from_model_config"}),
)
BAICHUAN_7B = replace(BAICHUAN, name="BaiChuanForCausalLM")
