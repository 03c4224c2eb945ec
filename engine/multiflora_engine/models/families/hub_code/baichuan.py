"""Baichuan: Llama whose q, k and v are stored stacked; 13B has ALiBi. Source: the models' own modeling_baichuan.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from multiflora_engine.models.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.alibi import alibi_slopes
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(qkv=("self_attn.W_pack",))
_SECOND_VOCABULARY = 125696


def _form(fields: ConfigFields) -> Form:
    if fields.integer("vocab_size") == _SECOND_VOCABULARY or fields.given("z_loss_weight"):
        raise ModelError("config.json is that of Baichuan2, whose head is normalised: it is not served.")
    # Only the code of 7B, which turns heads, knows this key.
    if fields.given("turns_heads"):
        return Form(_MODULES, is_multi_head=True)
    slopes = alibi_slopes(fields.integer("num_attention_heads"))
    return Form(_MODULES, is_multi_head=True, rotates=False, slopes=slopes)


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
