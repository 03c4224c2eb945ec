"""Reads compressed-tensors' settings: groups of linears, each with a format of its own. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.quantisation.config_values import (
    SOURCE,
    block_size,
    compiled,
    group_size,
    names_of,
    one_of,
)
from multiflora_engine.models.quantisation.settings import (
    Nvfp4Settings,
    PackedSettings,
    Quantisation,
    ScaledSettings,
    Settings,
)

_EIGHT_BITS = ("int-quantized", "float-quantized", "naive-quantized")


def read_compressed_tensors(fields: ConfigFields, found: Mapping[str, Any]) -> Quantisation:
    """Raises ModelError for formats, sparsity and transforms that are not served."""
    sparsity = found.get("sparsity_config") or {}
    if sparsity and (not isinstance(sparsity, dict) or sparsity.get("format") != "dense"):
        raise ModelError(f"{SOURCE}: sparsity_config says that zeros are left out of the files, which is not served.")
    if found.get("transform_config"):
        raise ModelError(f"{SOURCE}: transform_config says that inputs are transformed, which is not served.")
    groups = found.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise ModelError(f"{SOURCE}: config_groups has to be an object of groups.")
    rules = [(_pattern(name), None) for name in names_of(found, "ignore")]
    named: list[tuple[re.Pattern[str], Settings | None]] = []
    for group in groups.values():
        settings = _settings(group, group.get("format") or found.get("format"))
        named += [(_pattern(name), settings) for name in names_of(group, "targets")]
    return Quantisation("compressed-tensors", None, (*rules, *named))


def _pattern(name: str) -> re.Pattern[str]:
    """A class of modules, a pattern behind `re:`, or one module's name."""
    if name == "Linear":
        return compiled("")
    return compiled(name.removeprefix("re:") if name.startswith("re:") else re.escape(name) + "$")


def _settings(group: Mapping[str, Any], form: object) -> Settings | None:
    weights = group.get("weights")
    if weights is None:
        return None
    if not isinstance(weights, dict):
        raise ModelError(f"{SOURCE}: weights has to be an object.")
    own = ConfigFields(weights, {}, f"{SOURCE}: weights")
    kind, strategy = own.text("type"), str(weights.get("strategy"))
    size = group_size(weights, "group_size") if strategy in ("group", "tensor_group") else None
    if form == "pack-quantized" and kind == "int" and strategy in ("group", "channel"):
        bits = one_of(own.integer("num_bits"), "num_bits", tuple(range(2, 9)))
        return PackedSettings(bits, size, own.flag("symmetric", True))
    if form == "nvfp4-pack-quantized" and kind == "float" and size == 16:
        return Nvfp4Settings()
    if form in _EIGHT_BITS and kind in ("int", "float") and strategy in ("tensor", "channel", "group", "block"):
        one_of(own.integer("num_bits"), "num_bits", (8,))
        block = block_size(weights.get("block_structure")) if strategy == "block" else None
        return ScaledSettings(("I8",) if kind == "int" else ("F8_E4M3",), block, size)
    raise ModelError(
        f"{SOURCE}: {kind} weights in the format {str(form)[:80]!r} and a scale per {strategy[:80]!r} are not served. "
        "Served are pack-quantized, int-quantized, float-quantized, naive-quantized and nvfp4-pack-quantized."
    )
