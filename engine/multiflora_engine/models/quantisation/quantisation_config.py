"""Reads config.json's quantization_config: the method, its settings, and what is left unquantised. Torch-free.

Sources: the configuration classes of transformers and vLLM, and what the tools write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields, read_json_object
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.quantisation.compressed_config import read_compressed_tensors
from multiflora_engine.models.quantisation.config_values import (
    SOURCE,
    Rules,
    block_size,
    compiled,
    group_size,
    one_of,
    skip_rules,
)
from multiflora_engine.models.quantisation.settings import (
    AwqSettings,
    BitsAndBytesSettings,
    GptqSettings,
    Mxfp4Settings,
    Quantisation,
    ScaledSettings,
    Settings,
    method_name,
)

# Where tools wrote the same before config.json held it, and what they were then.
_OLD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


def read_quantisation(raw: Mapping[str, Any], folder: Path) -> Quantisation | None:
    """raw: config.json. None: the checkpoint is not quantised. Raises ModelError for what is not served."""
    found = raw.get("quantization_config") or raw.get("compression_config") or _from_old_file(folder)
    if not found:
        return None
    if not isinstance(found, dict):
        raise ModelError(f"{SOURCE} is no JSON object. Download or save the model again.")
    fields = ConfigFields(found, {"quant_method": _guess(found)}, SOURCE)
    method = method_name(fields.text("quant_method"))
    if method == "squeezellm":
        raise ModelError(
            "The checkpoint is quantised by SqueezeLLM, whose tables of values are not served: vLLM removed them in "
            f"2024, and no tool writes them any more. {_advice()}"
        )
    if method not in _METHODS:
        raise ModelError(f"The checkpoint is quantised ({method[:80]}), which is not served. {_advice()}")
    return _METHODS[method](fields, found)


def _advice() -> str:
    return f"Give the model unquantised, or quantised as one of {', '.join(sorted(_METHODS))}."


def _from_old_file(folder: Path) -> dict[str, Any] | None:
    for name, method in _OLD_FILES.items():
        if (folder / name).is_file():
            return {"quant_method": method, **read_json_object(folder / name)}
    return None


def _guess(found: Mapping[str, Any]) -> str | None:
    """What bitsandbytes' and compressed-tensors' older configurations leave out."""
    if "load_in_4bit" in found or "load_in_8bit" in found:
        return "bitsandbytes"
    return "compressed-tensors" if "config_groups" in found else None


def _gptq(fields: ConfigFields, found: Mapping[str, Any]) -> Quantisation:
    version = found.get("checkpoint_format") or "gptq"
    if version not in ("gptq", "gptq_v2"):
        raise ModelError(f"{SOURCE}: checkpoint_format {str(version)[:80]!r} is not served; gptq and gptq_v2 are.")
    default = GptqSettings(
        bits=one_of(fields.integer("bits"), "bits", (2, 3, 4, 8)),
        group_size=group_size(found, "group_size"),
        desc_act=fields.flag("desc_act", False),
        is_v2=version == "gptq_v2",
    )
    return Quantisation("gptq", default, (*_dynamic_rules(found, default), *_rules_of_blocks(found)))


def _dynamic_rules(found: Mapping[str, Any], default: GptqSettings) -> Rules:
    """GPTQModel: settings of single modules, by patterns; `-:` before one leaves its modules as they are."""
    dynamic = found.get("dynamic") or {}
    if not isinstance(dynamic, dict) or not all(isinstance(value, dict) for value in dynamic.values()):
        raise ModelError(f"{SOURCE}: dynamic has to map patterns to settings.")
    rules: list[tuple[re.Pattern[str], Settings | None]] = []
    for key, value in dynamic.items():
        own = ConfigFields(value, {}, f"{SOURCE}: dynamic")
        changed = replace(
            default,
            bits=one_of(own.integer("bits", default.bits), "dynamic bits", (2, 3, 4, 8)),
            group_size=group_size(value, "group_size") if "group_size" in value else default.group_size,
            desc_act=own.flag("desc_act", default.desc_act),
        )
        rules.append((compiled(key.removeprefix("+:").removeprefix("-:")), None if key.startswith("-:") else changed))
    return tuple(rules)


def _rules_of_blocks(found: Mapping[str, Any]) -> Rules:
    """Where only some linears of a layer are quantised, GPTQ's tools list those."""
    listed = found.get("modules_in_block_to_quantize") or []
    names = [name for part in listed for name in (part if isinstance(part, list) else [part])]
    if not all(isinstance(name, str) for name in names):
        raise ModelError(f"{SOURCE}: modules_in_block_to_quantize has to be a list of names.")
    if not names:
        return ()
    ends = "|".join(re.escape(name) for name in [*names, *(["lm_head"] if found.get("lm_head") else [])])
    return ((compiled(rf"(?!.*(?:{ends})$)"), None),)


def _awq(fields: ConfigFields, found: Mapping[str, Any]) -> Quantisation:
    version = str(found.get("version") or "gemm").lower()
    if version != "gemm":
        raise ModelError(f"{SOURCE}: AWQ's layout {version[:80]!r} is not served; gemm is.")
    one_of(fields.integer("w_bit" if "w_bit" in found else "bits"), "bits", (4,))
    size = group_size(found, "q_group_size" if "q_group_size" in found else "group_size")
    return Quantisation("awq", AwqSettings(size), skip_rules(found, "modules_to_not_convert"))


def _fp8(fields: ConfigFields, found: Mapping[str, Any]) -> Quantisation:
    block = found.get("weight_block_size")
    default = ScaledSettings(("F8_E4M3", "F8_E5M2"), block=None if block is None else block_size(block))
    return Quantisation("fp8", default, skip_rules(found, "modules_to_not_convert", "ignored_layers"))


def _bitsandbytes(fields: ConfigFields, found: Mapping[str, Any]) -> Quantisation:
    is_four_bit = fields.flag("load_in_4bit", False)
    if is_four_bit == fields.flag("load_in_8bit", False):
        raise ModelError(f"{SOURCE}: either load_in_4bit or load_in_8bit has to be true.")
    default = BitsAndBytesSettings() if is_four_bit else ScaledSettings(("I8",))
    return Quantisation("bitsandbytes", default, skip_rules(found, "llm_int8_skip_modules"))


def _mxfp4(fields: ConfigFields, found: Mapping[str, Any]) -> Quantisation:
    return Quantisation("mxfp4", Mxfp4Settings(), skip_rules(found, "modules_to_not_convert"))


_METHODS: Mapping[str, Callable[[ConfigFields, Mapping[str, Any]], Quantisation]] = {
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": read_compressed_tensors,
    "fp8": _fp8,
    "gptq": _gptq,
    "mxfp4": _mxfp4,
}
