"""StarCoder 2: layer norms, an MLP without a gate, biases everywhere. Source: transformers, models/starcoder2."""

from __future__ import annotations

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(up=("mlp.c_fc",), down="mlp.c_proj")


def _form(fields: ConfigFields) -> Form:
    has_bias = fields.flag("use_bias", True)
    return Form(
        _MODULES,
        norm="layer",
        norm_has_bias=True,
        is_gated=False,
        qkv_bias=has_bias,
        o_bias=has_bias,
        up_bias=has_bias,
        down_bias=has_bias,
        sliding="every_layer",
    )


STARCODER2 = Family(
    "Starcoder2ForCausalLM",
    "starcoder2",
    _form,
    defaults={
        "rms_norm_eps": 1e-5,
        "hidden_act": "gelu_pytorch_tanh",
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    },
    aliases={"rms_norm_eps": "norm_epsilon"},
    reads=frozenset({"use_bias", "sliding_window"}),
    ignores=frozenset({"residual_dropout", "embedding_dropout"}),
)
