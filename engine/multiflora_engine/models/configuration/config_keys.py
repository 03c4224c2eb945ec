"""Every key that a served family's config.json may hold: read, refused, or without effect. Torch-free.

Knows keys, not what the read ones mean: config.py, rope_config.py and the families do. The lists were compared with the
configuration classes and the models of transformers; tests compare them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.rope_config import LAYER_KINDS, SCALING_KEYS
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.family import Family

_READ = {
    "architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "hidden_act", "max_position_embeddings",
    "original_max_position_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor",
    "layer_types", "tie_word_embeddings", "dtype", "torch_dtype", "bos_token_id", "eos_token_id",
    "quantization_config", "compression_config",
}  # fmt: skip

# What some families read, and others ignore in transformers as they do here.
_READ_BY_SOME = {"attention_bias", "mlp_bias", "sliding_window", "use_sliding_window", "max_window_layers"}

# Training, files, other heads than the language model's, how transformers runs a model and what it returns.
_WITHOUT_EFFECT = {
    "_name_or_path", "name_or_path", "transformers_version", "auto_map", "unsloth_version", "unsloth_fixed",
    "attention_dropout", "resid_pdrop", "embd_pdrop", "initializer_range", "use_cache", "return_dict",
    "output_hidden_states", "output_attentions", "output_router_logits", "chunk_size_feed_forward", "torchscript",
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "pad_token_id",
    "sep_token_id", "cls_token_id", "decoder_start_token_id", "tokenizer_class", "prefix", "pretraining_tp",
    "use_bfloat16", "tf_legacy_loss", "pruned_heads", "tie_encoder_decoder", "tie_last_hidden_states", "is_decoder",
    "add_cross_attention", "cross_attention_hidden_size", "attn_implementation", "_attn_implementation",
    "_attn_implementation_autoset", "_attn_implementation_internal", "experts_implementation", "gradient_checkpointing",
    "_commit_hash", "use_mrope", "model_max_length", "is_encoder_decoder",
}  # fmt: skip

# Generation values of old files, which transformers 5 drops: they belong into generation_config.json.
_GENERATION = {
    "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "max_length",
    "min_length", "max_new_tokens", "min_new_tokens", "num_beams", "num_beam_groups", "num_return_sequences",
    "diversity_penalty", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "early_stopping",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "remove_invalid_values", "forced_bos_token_id",
    "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty",
    "output_scores", "return_dict_in_generate",
}  # fmt: skip

_ROPE_KEYS = {
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings", "factor",
    "attention_factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
    "truncate", "short_factor", "long_factor", "finetuned",
}  # fmt: skip


def check_keys(raw: Mapping[str, Any], family: Family) -> tuple[str, ...]:
    """Warnings for keys that are ignored though they might matter. Raises ModelError for those that change what the
    model computes in a way that is not served."""
    if raw.get("is_causal") is False:
        raise ModelError("config.json: is_causal is false; only causal language models are served.")
    for key in ("per_layer_config", "attention_chunk_size"):
        if raw.get(key):
            raise ModelError(f"config.json: {key} changes what single layers compute, which is not served.")
    given = {key for key, value in raw.items() if value is not None}
    warnings = [
        f"config.json: {key} has no effect, {family.name} does not read it."
        for key in sorted(given & _READ_BY_SOME - family.reads)
        if raw[key]
    ]
    known = _READ | _READ_BY_SOME | _WITHOUT_EFFECT | _GENERATION
    known = known - family.aliases.keys() | {*family.aliases.values(), *family.reads, *family.ignores}
    unknown = sorted(given - known - {"is_causal", "per_layer_config", "attention_chunk_size"})
    for key in SCALING_KEYS:
        if isinstance(raw.get(key), dict):
            unknown += sorted(f"{key}.{name}" for name in _rope_keys(raw[key]) - _ROPE_KEYS)
    if unknown:
        warnings.append(
            f"config.json: {', '.join(name[:80] for name in unknown[:20])}{' ...' * (len(unknown) > 20)}: unknown, and "
            "ignored. If the model needs this, its answers are wrong: compare them with those of transformers."
        )
    return tuple(warnings)


def _rope_keys(values: Mapping[str, Any]) -> set[str]:
    """Those of all layers, and those of each kind of layers."""
    nested = [values[kind] for kind in LAYER_KINDS if isinstance(values.get(kind), dict)]
    return (values.keys() - LAYER_KINDS).union(*nested)
