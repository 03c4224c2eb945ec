"""adapter_config.json: reading it within limits, PEFT's defaults, and the settings that cannot be served.

Knows PEFT's field names; knows nothing of tensors or of the base model.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any, Literal

import msgspec

from multiflora_adapters.peft_rules import check_activation, check_initialisation, check_peft_rules
from multiflora_adapters.report import (
    POINTER,
    AdapterError,
    ValidationRow,
    error,
    pointer_row,
    shown,
    some_of,
    warning,
)

CONFIG_NAME = "adapter_config.json"
MAX_CONFIG_BYTES = 1 << 20
MAX_ENTRIES = 4096


class IdentityConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What of the configuration the digest spells out, with PEFT's names and defaults.

    Another field here would give every stored version another digest; the file's own hash covers all fields anyway.
    """

    r: int = 8
    lora_alpha: float = 8.0  # B A is scaled by lora_alpha / r
    use_rslora: bool = False  # scaled by lora_alpha / sqrt(r) instead
    use_dora: bool = False  # every touched module has a magnitude, too
    rank_pattern: dict[str, int] = {}  # regular expression of a module's name -> its r
    alpha_pattern: dict[str, float] = {}  # regular expression of a module's name -> its lora_alpha
    # Names matched by suffix (sorted), or one regular expression (`str`), or "all-linear".
    target_modules: tuple[str, ...] | str | None = None
    exclude_modules: tuple[str, ...] | str | None = None  # likewise
    layers_to_transform: tuple[int, ...] | None = None  # of target_modules, in these layers only; None: in all
    layers_pattern: tuple[str, ...] = ()  # what precedes the layer's number in a module's name
    ensure_weight_tying: bool = False  # refused where embedding or head is touched
    base_model_name_or_path: str | None = None  # as the training named it; only compared, for a warning


class AdapterConfig(IdentityConfig, frozen=True, kw_only=True):
    """The part of PEFT's LoraConfig that decides what an adapter computes, with PEFT's names and defaults.

    `parse_config` fills it from adapter_config.json and normalises it.
    """

    lora_bias: bool = False  # every touched linear has a bias beside B
    bias: Literal["none", "lora_only", "all"] = "none"  # whose biases of the base were trained, too
    modules_to_save: tuple[str, ...] | None = None  # trained as a whole; embedding and head are served
    # Rows of the embedding (of a tied head, too) that were trained, or those of each module by its name.
    trainable_token_indices: tuple[int, ...] | dict[str, tuple[int, ...]] | None = None
    # Parameters with LoRA, matched by suffix: PEFT has no module for the linears of routers and experts.
    target_parameters: tuple[str, ...] | None = None
    # Activated LoRA: it computes from the last place on where these tokens stand in the prompt (kv_reach.py).
    alora_invocation_tokens: tuple[int, ...] | None = None

    @property
    def identity(self) -> IdentityConfig:
        """The fields that the digest spells out."""
        return msgspec.convert(msgspec.structs.asdict(self), IdentityConfig)


# Keys that do not change what a trained adapter computes.
_HARMLESS = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "revision", "inference_mode", "lora_dropout",
    "megatron_core", "runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config",
    "qalora_group_size", "init_lora_weights",
}  # fmt: skip

# Keys that, when set, change the computation in a way that is not served.
_REFUSED = {
    "layer_replication": (
        "layer_replication repeats layers of the base model, which all adapters share.",
        "Make it a model of its own: PEFT's merge_and_unload, then save_pretrained.",
    ),
    "megatron_config": ("Megatron parallel layers are not served.", "Convert the adapter to a plain PEFT LoRA."),
    "use_qalora": ("QA-LoRA pools the inputs, which is not served.", "Train a plain LoRA."),
    "use_bdlora": ("Block-diagonal LoRA is not served.", "Train a plain LoRA."),
    "arrow_config": ("Arrow routing between adapters is not served.", "Train a plain LoRA."),
    "kasa_config": ("KaSA changes the base weights.", "Train a plain LoRA."),
    "monteclora_config": ("MonteCLoRA is not served.", "Train a plain LoRA."),
}

# PEFT asks of these only whether they hold something.
_NONE_WHEN_EMPTY = {"modules_to_save", "exclude_modules", "layers_pattern", "target_parameters"}
_INTEGERS = {"r", "rank_pattern", "layers_to_transform", "trainable_token_indices", "alora_invocation_tokens"}
_SWITCHES = {"use_dora", "use_rslora", "lora_bias", "ensure_weight_tying"}

KNOWN_SETTINGS = _HARMLESS | _REFUSED.keys() | set(AdapterConfig.__struct_fields__) | {"fan_in_fan_out"}
"""What `check_raw_config` does not warn of: read, refused when set, or without effect on a trained adapter."""


def read_raw_config(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises AdapterError when it is missing, too large or not an object."""
    if not is_regular_file(path):
        raise AdapterError(error("config", f"{CONFIG_NAME} is missing.", hint="Upload the folder that PEFT saved."))
    with path.open("rb") as file:
        content = file.read(MAX_CONFIG_BYTES + 1)
    if len(content) > MAX_CONFIG_BYTES:
        hint = "Save the adapter again."
        raise AdapterError(error("config", f"{CONFIG_NAME} is larger than {MAX_CONFIG_BYTES} bytes.", hint=hint))
    if content.startswith(POINTER):
        raise AdapterError(pointer_row(CONFIG_NAME))
    if not content.strip() or content.startswith(b"<"):
        found = "a web page, not a configuration" if content.strip() else "empty"
        raise AdapterError(error("config", f"{CONFIG_NAME} is {found}.", hint="Copy or save the adapter again."))
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise AdapterError(
            error("config", f"{CONFIG_NAME} is not a JSON object: {shown(problem)}", hint="Save the adapter again.")
        ) from problem


def _is_absent(key: str, value: Any) -> bool:
    return value is None or (key in _NONE_WHEN_EMPTY and not value)


def parse_config(raw: dict[str, Any]) -> AdapterConfig:
    """The normalised configuration. Raises AdapterError naming the field of a wrong type or value."""
    fields = {key: value for key, value in raw.items() if key in ("r", "lora_alpha") or not _is_absent(key, value)}
    for key in _SWITCHES & fields.keys():
        fields[key] = bool(fields[key]) if fields[key] in (0, 1, "", [], {}) else fields[key]
    try:
        fields |= {key: _integer(fields[key]) for key in _INTEGERS & fields.keys()}
        for key, kind in (("layers_to_transform", int), ("layers_pattern", str)):
            if isinstance(fields.get(key), kind) and not isinstance(fields[key], bool):
                fields[key] = [fields[key]]
        config = msgspec.convert(fields, AdapterConfig)
    except (msgspec.ValidationError, RecursionError) as problem:
        raise AdapterError(error("config", f"{CONFIG_NAME}: {shown(problem)}", hint="See PEFT's LoraConfig.")) from None
    _check_values(config)
    return msgspec.structs.replace(
        config,
        target_modules=_sorted_names(config.target_modules),
        exclude_modules=_sorted_names(config.exclude_modules),
        layers_to_transform=config.layers_to_transform or None,
    )


def check_raw_config(raw: dict[str, Any]) -> list[ValidationRow]:
    """Rows for everything in the configuration that cannot be served or is not known."""
    rows = [*_check_kind(raw), *check_initialisation(raw.get("init_lora_weights", True)), *check_peft_rules(raw)]
    rows += check_activation(raw)
    for key, (reason, hint) in _REFUSED.items():
        if raw.get(key):
            rows.append(error("config", f"{key}: {reason}", observed=shown(raw[key]), hint=hint))
    if raw.get("fan_in_fan_out"):
        message = "fan_in_fan_out is for transposed (Conv1D) weights; the base has none, and PEFT ignores it there."
        rows.append(warning("config", message, hint="Set it to false."))
    unknown = sorted(raw.keys() - KNOWN_SETTINGS)
    unknown = [key for key in unknown if raw[key] not in (None, False, "", [], {})]
    if unknown:
        rows.append(
            warning(
                "config",
                f"Settings of an unknown meaning are ignored: {some_of(unknown)}.",
                hint="Compare the adapter's output with PEFT's.",
            )
        )
    return rows


def is_regular_file(path: Path) -> bool:
    """True for a file, also through a link; pipes and devices, which could block the reader, are not files."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _check_kind(raw: dict[str, Any]) -> list[ValidationRow]:
    kind = raw.get("peft_type")
    if isinstance(kind, str) and kind.upper() == "LORA":
        return []
    found = "no peft_type" if kind in (None, "") else f"peft_type {shown(kind)}"
    return [
        error(
            "config",
            f"Only PEFT's LORA adapters are served; {CONFIG_NAME} has {found}.",
            observed=shown(kind),
            expected="LORA",
            hint="The file must come from peft's save_pretrained of a LoraConfig.",
        )
    ]


def _check_values(config: AdapterConfig) -> None:
    for name in (
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
        "target_parameters",
        "alora_invocation_tokens",
    ):
        value = getattr(config, name)
        if not isinstance(value, str) and len(value or ()) > MAX_ENTRIES:
            raise AdapterError(error("config", f"{name} has too many entries.", expected=f"at most {MAX_ENTRIES}"))
    if not math.isfinite(config.lora_alpha) or not all(map(math.isfinite, config.alpha_pattern.values())):
        raise AdapterError(error("config", "lora_alpha is not finite.", expected="a number"))
    ranks = [config.r, *config.rank_pattern.values()]
    if min(ranks) <= 0:
        raise AdapterError(error("rank", "The rank must be positive.", observed=str(min(ranks)), expected=">= 1"))


def _integer(value: Any) -> Any:
    """JSON written by other tools says 2.0 where PEFT says 2, also in lists and maps."""
    if isinstance(value, list):
        return [_integer(item) for item in value]
    if isinstance(value, dict):
        return {key: _integer(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sorted_names(names: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
    return tuple(sorted(set(names))) if isinstance(names, tuple) else names
