"""Reads config.json and generation_config.json into a ModelConfig, and refuses what is missing, damaged or unsupported.
Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields, read_json_object
from multiflora_engine.models.configuration.config_keys import check_keys
from multiflora_engine.models.configuration.generation_config import end_tokens, generation_defaults, is_token
from multiflora_engine.models.configuration.model_config import Activation, ModelConfig
from multiflora_engine.models.configuration.rope_config import overridden, parse_ropes
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.catalogue import find_family
from multiflora_engine.models.families.family import COMMON_DEFAULTS, Family
from multiflora_engine.models.families.form import Form
from multiflora_engine.models.quantisation.quantisation_config import read_quantisation

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def load_model_config(folder: Path, overrides: Mapping[str, Any] = MappingProxyType({})) -> ModelConfig:
    """Read the two configuration files. overrides: values in the place of config.json's own. Raises ModelError for what
    is missing, damaged or unsupported."""
    given = overridden(read_json_object(folder / "config.json"), overrides)
    family = find_family(given)
    raw = _in_llamas_words(given, family) | {key: overrides[key] for key in family.aliases.keys() & overrides}
    defaults = {**COMMON_DEFAULTS, **family.defaults}
    fields = ConfigFields(raw, defaults, aliases=family.aliases)
    form = family.form(fields)
    num_heads, num_layers = fields.integer("num_attention_heads"), fields.integer("num_hidden_layers")
    # A null means one key-value head per head, unlike a key that is absent (then the family's default holds).
    is_multi_head = form.is_multi_head or ("num_key_value_heads" in raw and raw["num_key_value_heads"] is None)
    num_kv_heads = num_heads if is_multi_head else fields.integer("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise ModelError(f"config.json: {num_heads} attention heads cannot share {num_kv_heads} key-value heads.")
    hidden_size = fields.integer("hidden_size")
    head_dim = fields.integer("head_dim", max(1, hidden_size // num_heads))
    windows = _sliding_windows(raw, family, form, fields, num_layers)
    ropes, rope_of_layer = parse_ropes(raw, defaults, head_dim, windows, family, form)
    generation = read_json_object(path) if (path := folder / "generation_config.json").is_file() else {}
    advice, ignored = generation_defaults(generation)
    vocab_size = fields.integer("vocab_size")
    ends, no_ends = end_tokens(generation, raw, vocab_size)
    bos = raw.get("bos_token_id")
    quantisation = read_quantisation(raw, folder)
    return ModelConfig(
        folder=folder,
        architecture=family.name,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        norm_eps=fields.number("rms_norm_eps"),
        activation=_activation(fields, form),
        form=form,
        ropes=ropes,
        rope_of_layer=rope_of_layer,
        sliding_windows=windows,
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        quantisation=quantisation,
        dtype=_dtype(raw),
        bos_token_id=int(bos) if bos is not None and is_token(bos, vocab_size) else None,
        eos_token_ids=ends,
        generation_defaults=advice,
        warnings=(*check_keys(given, family), *ignored, *no_ends),
        overrides=overrides,
    )


def _in_llamas_words(given: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """config.json with Llama's words for the keys that the family calls otherwise."""
    known = {key: value for key, value in given.items() if key not in family.aliases}
    renamed = {key: given[name] for key, name in family.aliases.items() if name in given}
    return known | renamed | family.derive(given)


def _activation(fields: ConfigFields, form: Form) -> Activation:
    name = fields.text("hidden_act")
    served = [name for name, kind in _ACTIVATIONS.items() if not (form.is_gated and kind == "relu")]
    if name not in served:
        raise ModelError(f"The activation {name!r} is not supported. Supported are {', '.join(served)}.")
    return _ACTIVATIONS[name]


def _sliding_windows(
    raw: Mapping[str, Any], family: Family, form: Form, fields: ConfigFields, num_layers: int
) -> tuple[int | None, ...]:
    # A null means no window, unlike a key that is absent (then the family's default holds).
    is_off = form.sliding == "never" or ("sliding_window" in raw and raw["sliding_window"] is None)
    window = None if is_off or "sliding_window" not in {**family.defaults, **raw} else fields.integer("sliding_window")
    first = 0
    if form.sliding == "if_switched_on":
        window = window if fields.flag("use_sliding_window") else None
        first = fields.integer("max_window_layers", minimum=0)
    windowed = range(first, num_layers) if form.windowed_layers is None else form.windowed_layers
    by_default = tuple(window if layer in windowed else None for layer in range(num_layers))
    kinds = raw.get("layer_types")
    if kinds is None:
        return by_default
    known = ("sliding_attention", "full_attention")
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in known for kind in kinds):
        raise ModelError(f"config.json: layer_types has to name one of {', '.join(known)} for each layer.")
    if window is None and known[0] in kinds:
        raise ModelError("config.json: layer_types names sliding_attention, but no sliding_window is in force.")
    windows = tuple(window if kind == known[0] else None for kind in kinds)
    if windows != by_default and not form.reads_layer_types:
        raise ModelError(f"config.json: {family.name} with these layer_types is not served.")
    return windows


def _dtype(raw: Mapping[str, Any]) -> str | None:
    """transformers 4 wrote torch_dtype, transformers 5 writes dtype."""
    name = raw.get("dtype") or raw.get("torch_dtype")
    return name.removeprefix("torch.") if isinstance(name, str) else None
