"""The rotary embedding as config.json, or an operator before it, describes it, in the spelling of transformers 4 or of
transformers 5. Torch-free.

Knows no tensors: rotary.py turns this into tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form

RopeKind = Literal["none", "default", "linear", "dynamic", "yarn", "longrope", "llama3"]

LAYER_KINDS = ("full_attention", "sliding_attention")
"""As `rope_parameters` calls the layers whose rotations it gives apart."""

SCALING_KEYS = ("rope_scaling", "rope_parameters")
"""Under which transformers 4 and 5 write how the rotations are scaled."""

_SCALINGS = tuple(kind for kind in get_args(RopeKind) if kind != "none")


@dataclass(frozen=True)
class RopeConfig:
    """Filled by `parse_ropes`; of kind "none" where nothing turns.

    What belongs to single kinds has the names and defaults of transformers.
    """

    kind: RopeKind
    theta: float  # the base of the frequencies
    rotary_dim: int  # leading dimensions of each head that are rotated; even
    max_position_embeddings: int  # the model's own length in tokens
    original_max_position_embeddings: int  # before it was extended (yarn, longrope, llama3)
    factor: float = 1.0  # how far it was extended
    attention_factor: float | None = None  # scales cos and sin (yarn, longrope); None: derived from `factor`
    low_freq_factor: float = 1.0  # llama3: wavelengths above original length / this are slowed down in full
    high_freq_factor: float = 4.0  # llama3: wavelengths below original length / this stay
    beta_fast: float = 32.0  # yarn: dimensions with more full turns within the original length stay
    beta_slow: float = 1.0  # yarn: dimensions with fewer are interpolated in full
    mscale: float | None = None  # yarn, as DeepSeek derives its attention factor
    mscale_all_dim: float | None = None  # yarn, the divisor of the same
    truncate: bool = True  # yarn: the borders between dimensions are whole numbers
    short_factor: tuple[float, ...] = ()  # longrope: per pair of dimensions, up to the original length
    long_factor: tuple[float, ...] = ()  # longrope: the same beyond it

    @property
    def longest(self) -> int:
        """The longest sequence that the frequencies are made for, in tokens."""
        if self.kind in ("linear", "dynamic"):
            return int(self.max_position_embeddings * self.factor)
        if self.kind == "yarn":
            return max(self.max_position_embeddings, int(self.original_max_position_embeddings * self.factor))
        return self.max_position_embeddings


def overridden(given: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with `overrides` in the place of its own values, key by key.

    A scaling of the rotations goes before the file's under both names, of transformers 4 and 5; what it leaves out of
    base and rotated part stays the file's. Raises ModelError for one rotation where the model has several.
    """
    merged = {**given, **overrides}
    changed = overrides.keys() & {*SCALING_KEYS, "rope_theta"}
    if not changed:
        return merged
    own = _object(given, "rope_parameters")
    if _is_nested(own):
        if changed != {"rope_parameters"} or not _is_nested(_object(overrides, "rope_parameters")):
            raise ModelError(
                f"hf_overrides: {', '.join(sorted(changed))}: this model has several rotations. Give rope_parameters "
                "with all of them, as its config.json has it."
            )
        return merged
    if changed == {"rope_theta"}:  # a base inside the scaling would win
        scalings = {name: values for name in SCALING_KEYS if "rope_theta" in (values := _object(given, name))}
        return merged | {name: {**values, "rope_theta": merged["rope_theta"]} for name, values in scalings.items()}
    kept = {name: own[name] for name in ("rope_theta", "partial_rotary_factor") if name in own.keys() - overrides}
    return {key: value for key, value in merged.items() if key not in SCALING_KEYS or key in overrides} | kept


def _object(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _is_nested(values: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) for value in values.values())


def parse_ropes(
    raw: Mapping[str, Any],
    defaults: Mapping[str, Any],
    head_dim: int,
    windows: tuple[int | None, ...],
    family: Family,
    form: Form,
) -> tuple[tuple[RopeConfig, ...], tuple[int, ...]]:
    """The rotations of a model, and which of them each layer uses. windows: of its layers. See `_parse_rope`."""
    num_layers = len(windows)
    if form.has_local_rope:
        both = tuple(_parse_rope(part, defaults, head_dim, family, form) for part in _whole_and_local(raw))
        return both, tuple(int(window is not None) for window in windows)
    rope = _parse_rope(raw, defaults, head_dim, family, form)
    unrotated = form.unrotated_layers
    if form.rotates_with_windows:
        unrotated = frozenset(layer for layer, window in enumerate(windows) if window is None)
    if not unrotated:
        return (rope,), (0,) * num_layers
    still = replace(rope, kind="none", rotary_dim=2)
    return (rope, still), tuple(int(layer in unrotated) for layer in range(num_layers))


def _whole_and_local(raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json as it would be were all layers without a window, or all with one: transformers 4 scales the
    first alone and has a key for the other's theta, transformers 5 has parameters for each."""
    kinds = raw.get("rope_parameters") or {}
    whole, local = ((kinds.get(kind) if isinstance(kinds, dict) else kinds) or {} for kind in LAYER_KINDS)
    scaling = raw.get("rope_scaling") or {}
    if not all(isinstance(values, dict) for values in (whole, local, scaling)):
        raise ModelError("config.json: rope_scaling or rope_parameters is damaged. Download or save the model again.")
    rest = {key: value for key, value in raw.items() if key not in SCALING_KEYS}
    theta = raw.get("rope_local_base_freq")
    local = {"rope_theta": 1e4 if theta is None else theta, **local}
    return {**rest, "rope_parameters": {**whole, **scaling}}, {**rest, "rope_parameters": local}


def _parse_rope(
    raw: Mapping[str, Any], defaults: Mapping[str, Any], head_dim: int, family: Family, form: Form
) -> RopeConfig:
    """raw: config.json, with `rope_scaling` + `rope_theta` (transformers 4) or `rope_parameters` (5)."""
    top = ConfigFields(raw, defaults, aliases=family.aliases)
    length = top.integer("max_position_embeddings")
    if not form.rotates:
        return RopeConfig("none", 1.0, 2, length, length)
    scaling = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(scaling, dict) or _is_nested(scaling):
        raise ModelError("config.json: one rotary embedding for all layers is supported, this model has several.")
    fields = ConfigFields(scaling, {}, "config.json: rope_scaling")
    kind = _kind(scaling)
    original = fields.integer("original_max_position_embeddings", length)
    if kind in ("yarn", "longrope", "llama3"):
        # As in transformers, a value beside the scaling wins over one inside it.
        original = top.integer("original_max_position_embeddings", original)
    partial = fields.number("partial_rotary_factor", top.number("partial_rotary_factor", 1.0))
    rotary_dim = form.rotary_dim or int(head_dim * partial)
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise ModelError(f"config.json: {rotary_dim} of {head_dim} head dimensions turn; an even number has to.")
    if rotary_dim != head_dim and not form.rotates_part_of_a_head:
        raise ModelError(f"config.json: partial_rotary_factor is {partial:g}, but {family.name} turns whole heads.")
    theta = fields.number("rope_theta", top.number("rope_theta", 10000.0))
    rest = _scaling(kind, fields, rotary_dim, length / original)
    return RopeConfig(kind, theta, rotary_dim, length, original, **rest)


def _kind(scaling: Mapping[str, Any]) -> RopeKind:
    name = scaling.get("rope_type") or scaling.get("type") or "default"
    name = "longrope" if name == "su" else name  # as it was called at first
    if name not in _SCALINGS:
        raise ModelError(f"RoPE scaling {name!r} is not supported. Supported are {', '.join(_SCALINGS)}.")
    return cast("RopeKind", name)


def _scaling(kind: RopeKind, fields: ConfigFields, rotary_dim: int, extension: float) -> dict[str, Any]:
    """The fields of RopeConfig that this kind needs. extension: how many times the original length is exceeded."""
    if kind in ("linear", "dynamic"):
        return {"factor": fields.number("factor")}
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        return {name: fields.number(name) for name in names}
    if kind == "yarn":
        return {
            "factor": fields.number("factor", extension),
            "attention_factor": fields.optional_number("attention_factor"),
            "beta_fast": fields.number("beta_fast", 32.0),
            "beta_slow": fields.number("beta_slow", 1.0),
            "mscale": fields.optional_number("mscale"),
            "mscale_all_dim": fields.optional_number("mscale_all_dim"),
            "truncate": fields.flag("truncate", True),
        }
    if kind == "longrope":
        factors = {name: fields.numbers(name) for name in ("short_factor", "long_factor")}
        if any(len(values) != rotary_dim // 2 for values in factors.values()):
            raise ModelError(f"config.json: short_factor and long_factor need {rotary_dim // 2} numbers each.")
        attention_factor = fields.optional_number("attention_factor")
        return {"factor": fields.number("factor", extension), "attention_factor": attention_factor, **factors}
    return {}
