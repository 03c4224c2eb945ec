"""What config.json and generation_config.json say of a base model, checked, in one shape for all families. Torch-free.

Knows neither weights nor devices; gateway and engine read the same object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_engine.models.architectures import COMMON_DEFAULTS, Family, find_family
from multiflora_engine.models.checkpoint import model_digest
from multiflora_engine.models.config_fields import ConfigFields, read_json_object
from multiflora_engine.models.config_keys import check_keys
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.generation_config import generation_defaults
from multiflora_engine.models.rope_config import RopeConfig, parse_rope

__all__ = ["ModelConfig", "ModelError", "load_model_config"]

Activation = Literal["silu", "gelu", "gelu_tanh"]

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_QUANTISATION_KEYS = ("quantization_config", "compression_config")


@dataclass(frozen=True)
class ModelConfig:
    """One base model, filled by `load_model_config` alone: from its files, or where they are silent by its family."""

    folder: Path  # that holds config.json and the weights
    architecture: str  # by the name that transformers gives it: "LlamaForCausalLM"
    vocab_size: int  # rows of embedding and head, padding of the vocabulary included
    hidden_size: int  # H
    intermediate_size: int  # I, of gate and of up
    num_layers: int
    num_heads: int  # Hq
    num_kv_heads: int  # Hk; Hq / Hk query heads share one
    head_dim: int  # D, which need not be H / Hq
    rms_norm_eps: float
    activation: Activation  # of the gate
    rope: RopeConfig
    sliding_windows: tuple[int | None, ...]  # per layer, how many tokens (itself included) a token sees; None: all
    has_fused_projections: bool  # checkpoint and adapters name qkv_proj and gate_up_proj instead of their parts
    has_qk_norm: bool  # each query and key head is normed before the rotation
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool  # of gate, up and down
    tie_word_embeddings: bool  # the head's weight is the embedding's
    dtype: str | None  # the checkpoint's: "float32", "bfloat16", "float16"; None: config.json does not say
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]  # any of them ends a generation
    generation_defaults: Mapping[str, float]  # sampling values of generation_config.json that can be used
    warnings: tuple[str, ...]  # what of the two files is ignored though it might matter; for the operator

    def with_ends(self, token_ids: Iterable[int]) -> ModelConfig:
        """Any of these ends a generation, too: those of them that the model can produce."""
        known = [token for token in (*self.eos_token_ids, *token_ids) if 0 <= token < self.vocab_size]
        return replace(self, eos_token_ids=tuple(dict.fromkeys(known)))

    @property
    def max_position_embeddings(self) -> int:
        """The model's own length in tokens, which max_model_len defaults to."""
        return self.rope.max_position_embeddings

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def layer_sites(self, layer: int) -> tuple[Site, ...]:
        """The linears of one layer, named as in the checkpoint; parts of a stacked weight stand in its row order."""
        hidden, inner = self.hidden_size, self.intermediate_size
        if self.has_fused_projections:
            inputs = [("self_attn.qkv_proj", self.q_size + 2 * self.kv_size), ("mlp.gate_up_proj", 2 * inner)]
        else:
            inputs = [
                ("self_attn.q_proj", self.q_size),
                ("self_attn.k_proj", self.kv_size),
                ("self_attn.v_proj", self.kv_size),
                ("mlp.gate_proj", inner),
                ("mlp.up_proj", inner),
            ]
        shapes = [(name, hidden, size) for name, size in inputs]
        shapes += [("self_attn.o_proj", self.q_size, hidden), ("mlp.down_proj", inner, hidden)]
        biased = {"o_proj": self.o_bias, "gate_proj": self.mlp_bias, "up_proj": self.mlp_bias}
        biased |= {"gate_up_proj": self.mlp_bias, "down_proj": self.mlp_bias}
        return tuple(
            Site(
                f"model.layers.{layer}.{name}",
                k,
                n,
                layer,
                has_bias=biased.get(name.rpartition(".")[2], self.qkv_bias),
            )
            for name, k, n in shapes
        )

    def base_model(self, name: str, digest: str | None = None) -> BaseModel:
        """What adapters need to know. Without a digest of the weights, their files are hashed the first time (see
        `checkpoint.model_digest`)."""
        sites = {site.name: site for site in self._sites()}
        return BaseModel(
            name,
            self.architecture,
            digest or model_digest(self.folder),
            self.num_layers,
            sites,
            is_head_tied=self.tie_word_embeddings,
        )

    def _sites(self) -> Iterator[Site]:
        yield Site("model.embed_tokens", self.vocab_size, self.hidden_size, kind="embedding")
        for layer in range(self.num_layers):
            yield from self.layer_sites(layer)
        yield Site("lm_head", self.hidden_size, self.vocab_size)


def load_model_config(folder: Path) -> ModelConfig:
    """Read the two configuration files. Raises ModelError for what is missing, damaged or unsupported."""
    raw = read_json_object(folder / "config.json")
    family = find_family(raw)
    _refuse_quantised(raw)
    defaults = {**COMMON_DEFAULTS, **family.defaults}
    fields = ConfigFields(raw, defaults)
    num_heads, num_layers = fields.integer("num_attention_heads"), fields.integer("num_hidden_layers")
    # A null means one key-value head per head, unlike a key that is absent (then the family's default holds).
    is_multi_head = "num_key_value_heads" in raw and raw["num_key_value_heads"] is None
    num_kv_heads = num_heads if is_multi_head else fields.integer("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise ModelError(f"config.json: {num_heads} attention heads cannot share {num_kv_heads} key-value heads.")
    hidden_size = fields.integer("hidden_size")
    head_dim = fields.integer("head_dim", max(1, hidden_size // num_heads))
    attention_bias = family.reads_attention_bias and fields.flag("attention_bias")
    generation = read_json_object(path) if (path := folder / "generation_config.json").is_file() else {}
    advice, ignored = generation_defaults(generation)
    return ModelConfig(
        folder=folder,
        architecture=family.name,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.number("rms_norm_eps"),
        activation=_activation(fields.text("hidden_act")),
        rope=parse_rope(raw, defaults, head_dim, family),
        sliding_windows=_sliding_windows(raw, family, fields, num_layers),
        has_fused_projections=family.has_fused_projections,
        has_qk_norm=family.has_qk_norm,
        qkv_bias=family.qkv_bias or attention_bias,
        o_bias=attention_bias,
        mlp_bias=family.reads_mlp_bias and fields.flag("mlp_bias"),
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        dtype=_dtype(raw),
        bos_token_id=next(iter(_token_ids(raw.get("bos_token_id"))), None),
        eos_token_ids=_token_ids(generation.get("eos_token_id")) or _token_ids(raw.get("eos_token_id")),
        generation_defaults=advice,
        warnings=(*check_keys(raw, family), *ignored),
    )


def _refuse_quantised(raw: Mapping[str, Any]) -> None:
    for key in _QUANTISATION_KEYS:
        if raw.get(key):
            method = raw[key].get("quant_method", "unknown method") if isinstance(raw[key], dict) else "unknown method"
            raise ModelError(
                f"The checkpoint is quantised ({method}); adapters are served on float32, bfloat16 or float16 weights. "
                "Give the unquantised model."
            )


def _activation(name: str) -> Activation:
    if name not in _ACTIVATIONS:
        raise ModelError(f"The activation {name!r} is not supported. Supported are {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name]


def _sliding_windows(
    raw: Mapping[str, Any], family: Family, fields: ConfigFields, num_layers: int
) -> tuple[int | None, ...]:
    # A null means no window, unlike a key that is absent (then the family's default holds).
    is_off = family.sliding == "never" or ("sliding_window" in raw and raw["sliding_window"] is None)
    window = None if is_off or "sliding_window" not in {**family.defaults, **raw} else fields.integer("sliding_window")
    first = 0
    if family.sliding == "if_switched_on":
        window = window if fields.flag("use_sliding_window") else None
        first = fields.integer("max_window_layers", minimum=0)
    by_default = tuple(window if layer >= first else None for layer in range(num_layers))
    kinds = raw.get("layer_types")
    if kinds is None:
        return by_default
    known = ("sliding_attention", "full_attention")
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in known for kind in kinds):
        raise ModelError(f"config.json: layer_types has to name one of {', '.join(known)} for each layer.")
    if window is None and known[0] in kinds:
        raise ModelError("config.json: layer_types names sliding_attention, but no sliding_window is in force.")
    windows = tuple(window if kind == known[0] else None for kind in kinds)
    if windows != by_default and not family.reads_layer_types:
        raise ModelError(f"config.json: {family.name} with these layer_types is not served.")
    return windows


def _dtype(raw: Mapping[str, Any]) -> str | None:
    """transformers 4 wrote torch_dtype, transformers 5 writes dtype."""
    name = raw.get("dtype") or raw.get("torch_dtype")
    return name.removeprefix("torch.") if isinstance(name, str) else None


def _token_ids(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(token for token in values if isinstance(token, int) and not isinstance(token, bool)))
