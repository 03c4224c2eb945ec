"""The cosine and sine tables of the rotary embedding. Knows neither heads nor caches.

KV blocks are shared between requests of different lengths, so the keys in them must not depend on the length of the
request that wrote them. Two kinds do depend on it in transformers; here the engine's max_model_len decides, once:
longrope uses its long factors exactly when max_model_len exceeds the original length (as vLLM does), and dynamic NTK
stretches its base for max_model_len where that exceeds the model's own length. Within the original length the results
are those of transformers; beyond it, those of transformers for a sequence of max_model_len tokens.
"""

from __future__ import annotations

import math

import torch

from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.rope_config import RopeConfig


def why_keys_stay(config: ModelConfig) -> str | None:
    """What of the model forbids to turn cached keys to another place; None where that gives the keys of the place."""
    if config.form.slopes:
        return "its attention has slopes over distances (ALiBi)"
    if config.form.modules.position_embedding is not None:
        return "its positions are learned vectors, which are in the values, too"
    if any(window is not None for window in config.sliding_windows):
        return "some of its layers see a sliding window alone"
    scaled = next((rope.kind for rope in config.ropes if rope.kind in ("dynamic", "longrope")), None)
    return None if scaled is None else f"its RoPE scaling ({scaled}) depends on length"


def model_tables(
    config: ModelConfig, max_model_len: int, device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The tables of each of the model's rotations."""
    return [rotary_tables(rope, max_model_len, device) for rope in config.ropes]


def rotary_tables(
    rope: RopeConfig, max_model_len: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin: float32 [max_model_len, rotary_dim / 2], with the attention factor folded in."""
    frequencies, attention_factor = inverse_frequencies(rope, max_model_len)
    angles = torch.outer(torch.arange(max_model_len, dtype=torch.float32), frequencies)
    return (angles.cos() * attention_factor).to(device), (angles.sin() * attention_factor).to(device)


def inverse_frequencies(rope: RopeConfig, max_model_len: int) -> tuple[torch.Tensor, float]:
    """(float32 [rotary_dim / 2], attention factor); formulas as in transformers' modeling_rope_utils."""
    if rope.kind == "none":
        return torch.zeros(rope.rotary_dim // 2), 1.0
    if rope.kind == "linear":
        return _plain(rope.theta, rope) / rope.factor, 1.0
    if rope.kind == "dynamic":
        return _dynamic(rope, max_model_len), 1.0
    if rope.kind == "llama3":
        return _llama3(rope), 1.0
    if rope.kind == "yarn":
        return _yarn(rope), _yarn_attention_factor(rope)
    if rope.kind == "longrope":
        return _longrope(rope, max_model_len), _longrope_attention_factor(rope)
    return _plain(rope.theta, rope), 1.0


def _exponents(rope: RopeConfig) -> torch.Tensor:
    return torch.arange(0, rope.rotary_dim, 2, dtype=torch.int64).float() / rope.rotary_dim


def _plain(theta: float, rope: RopeConfig) -> torch.Tensor:
    return 1.0 / (theta ** _exponents(rope))


def _dynamic(rope: RopeConfig, max_model_len: int) -> torch.Tensor:
    """NTK-aware scaling of the base for the engine's length (bloc97 and emozilla, 2023)."""
    stretch = max(max_model_len, rope.max_position_embeddings) / rope.max_position_embeddings
    exponent = rope.rotary_dim / (rope.rotary_dim - 2)
    return _plain(rope.theta * (rope.factor * stretch - (rope.factor - 1)) ** exponent, rope)


def _llama3(rope: RopeConfig) -> torch.Tensor:
    """Llama 3.1: long wavelengths are slowed down by `factor`, short ones stay, a smooth ramp lies between."""
    plain = _plain(rope.theta, rope)
    wavelengths = 2 * math.pi / plain
    longest = rope.original_max_position_embeddings / rope.low_freq_factor
    shortest = rope.original_max_position_embeddings / rope.high_freq_factor
    smooth = (rope.original_max_position_embeddings / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    ramp = (1 - smooth) * plain / rope.factor + smooth * plain
    scaled = torch.where(wavelengths > longest, plain / rope.factor, plain)
    return torch.where((wavelengths >= shortest) & (wavelengths <= longest), ramp, scaled)


def _yarn(rope: RopeConfig) -> torch.Tensor:
    """YaRN (arXiv:2309.00071): interpolate slow dimensions, keep fast ones, ramp between beta_slow and beta_fast."""
    low, high = (_yarn_dimension(rope, rotations) for rotations in (rope.beta_fast, rope.beta_slow))
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    width = high - low if high != low else 0.001
    interpolated = ((torch.arange(rope.rotary_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    powers = rope.theta ** _exponents(rope)
    return 1.0 / (rope.factor * powers) * interpolated + 1.0 / powers * (1 - interpolated)


def _yarn_dimension(rope: RopeConfig, rotations: float) -> float:
    """The dimension that makes `rotations` full turns within the original length."""
    turns = rope.original_max_position_embeddings / (rotations * 2 * math.pi)
    return rope.rotary_dim * math.log(turns) / (2 * math.log(rope.theta))


def _yarn_attention_factor(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _yarn_scale(rope.factor, rope.mscale) / _yarn_scale(rope.factor, rope.mscale_all_dim)
    return _yarn_scale(rope.factor, 1.0)


def _yarn_scale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _longrope(rope: RopeConfig, max_model_len: int) -> torch.Tensor:
    """LongRoPE (arXiv:2402.13753), one set of factors per engine (see above)."""
    is_long = max_model_len > rope.original_max_position_embeddings
    factors = torch.tensor(rope.long_factor if is_long else rope.short_factor, dtype=torch.float32)
    return 1.0 / (factors * rope.theta ** _exponents(rope))


def _longrope_attention_factor(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_max_position_embeddings))
