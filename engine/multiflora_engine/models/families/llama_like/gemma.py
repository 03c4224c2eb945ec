"""Gemma 1, 2 and 3 (text): norms that multiply by 1 + w, scaled embeddings, a gate of GELU; from 2 on normed outputs,
soft caps and alternating windows; in 3 normed heads, and a rotation of their own for layers with a window.

Source: transformers, models/gemma, models/gemma2 and models/gemma3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames, Scales, all_but_every

_GEMMA2 = ModuleNames(
    attention_output_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_output_norm="post_feedforward_layernorm",
)
_GEMMA3 = replace(_GEMMA2, q_norm="self_attn.q_norm", k_norm="self_attn.k_norm")


def _form(fields: ConfigFields) -> Form:
    if fields.flag("use_bidirectional_attention", False):
        raise ModelError("config.json: use_bidirectional_attention is true; only causal language models are served.")
    has_bias = fields.flag("attention_bias", False)
    return Form(
        norm_adds_one=True,
        norm_in_float32=True,
        qkv_bias=has_bias,
        o_bias=has_bias,
        scales=Scales(embedding=fields.integer("hidden_size") ** 0.5),
    )


def _form_with_windows(fields: ConfigFields, modules: ModuleNames, windowed: Iterable[int], scales: Scales) -> Form:
    first = _form(fields)
    scalar = fields.number("query_pre_attn_scalar", 256.0)
    return replace(
        first,
        modules=modules,
        sliding="every_layer",
        windowed_layers=frozenset(windowed),
        reads_layer_types=True,
        scales=replace(scales, embedding=first.scales.embedding, attention=scalar**-0.5),
    )


def _form_of_gemma2(fields: ConfigFields) -> Form:
    scales = Scales(
        attention_softcap=fields.optional_number("attn_logit_softcapping", 50.0),
        logit_softcap=fields.optional_number("final_logit_softcapping", 30.0),
    )
    return _form_with_windows(fields, _GEMMA2, range(0, fields.integer("num_hidden_layers"), 2), scales)


def _form_of_gemma3(fields: ConfigFields) -> Form:
    windowed = all_but_every(fields.integer("sliding_window_pattern", 6), fields.integer("num_hidden_layers"))
    scales = Scales(logit_softcap=fields.optional_number("final_logit_softcapping"))
    return replace(_form_with_windows(fields, _GEMMA3, windowed, scales), has_local_rope=True)


def _meant_activation(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The first files say "gelu" and mean its approximation by tanh, with which the model was trained."""
    return {"hidden_act": "gelu_pytorch_tanh"} if raw.get("hidden_act") == "gelu" else {}


_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}

GEMMA = Family(
    "GemmaForCausalLM",
    "gemma",
    _form,
    defaults={**_DEFAULTS, "num_key_value_heads": 16},
    derive=_meant_activation,
    reads=frozenset({"attention_bias", "use_bidirectional_attention"}),
    ignores=frozenset({"hidden_activation"}),
)

GEMMA2 = Family(
    "Gemma2ForCausalLM",
    "gemma2",
    _form_of_gemma2,
    defaults={**_DEFAULTS, "num_key_value_heads": 4, "sliding_window": 4096},
    aliases={"hidden_act": "hidden_activation"},
    reads=GEMMA.reads
    | {"attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "sliding_window"},
    ignores=frozenset({"hidden_act", "cache_implementation"}),
)

GEMMA3 = Family(
    "Gemma3ForCausalLM",
    "gemma3_text",
    _form_of_gemma3,
    defaults={**GEMMA2.defaults, "max_position_embeddings": 131072, "rope_theta": 1e6},
    aliases=GEMMA2.aliases,
    reads=frozenset(GEMMA2.reads - {"attn_logit_softcapping"} | {"rope_local_base_freq", "sliding_window_pattern"}),
    ignores=GEMMA2.ignores | {"attn_logit_softcapping", "_sliding_window_pattern"},
)
