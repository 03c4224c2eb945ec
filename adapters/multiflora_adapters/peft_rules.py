"""Configurations that PEFT itself does not load: its rules between settings, and the forms of those that change nothing
here. What it loads is lora_config.py's to read or refuse.

Source: peft.tuners.lora.config.LoraConfig.__post_init__ and LoraLayer.reset_lora_parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from multiflora_adapters.report import ValidationRow, error, shown

_TASKS = frozenset({"SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"})
_OBJECTS = ("eva_config", "corda_config", "lora_ga_config", "velora_config")
_NEVER_NULL = ("bias", "rank_pattern", "alpha_pattern", "lora_dropout")
_RULE = "PEFT does not load it either: save the adapter again with PEFT, or take the setting out."

# What PEFT computes for all tokens, or not at all, when an adapter is activated.
_NOT_ACTIVATED = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters")
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "lora_ga")
_CONVERSION = (
    "Convert it to a plain LoRA: set peft_config['default'].init_lora_weights = True and save_pretrained('initial') "
    "before training, save_pretrained('out', path_initial_model_for_weight_conversion='initial') after it."
)
_LOFTQ = "It belongs to the base that LoftQ quantised: serve that one, and set init_lora_weights to true."


def check_peft_rules(raw: dict[str, Any]) -> list[ValidationRow]:
    """A row for each rule of PEFT's that the configuration breaks."""
    return [error("config", message, observed=observed, hint=_RULE) for message, observed in _broken_rules(raw)]


def _broken_rules(raw: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong, and what was found."""
    task = raw.get("task_type")
    if task is not None and not (isinstance(task, str) and task in _TASKS):
        yield f"task_type is none of PEFT's: {', '.join(sorted(_TASKS))}.", shown(task)
    for key in _OBJECTS:
        if not isinstance(raw.get(key), dict | None):
            yield f"{key} must be an object.", shown(raw[key])
    for key in _NEVER_NULL:
        if key in raw and raw[key] is None:
            yield f"{key} must not be null.", "null"
    dropout = raw.get("lora_dropout")
    if dropout is not None and (not isinstance(dropout, int | float) or dropout > 1):
        yield "lora_dropout must be a number of at most 1.", shown(dropout)
    if isinstance(raw.get("target_modules"), str):
        for key in ("layers_to_transform", "layers_pattern"):
            if raw.get(key) is not None:
                yield f"{key} needs target_modules to be a list.", shown(raw[key])
    elif raw.get("layers_pattern") and raw.get("layers_to_transform") is None:
        yield "layers_pattern needs layers_to_transform.", shown(raw["layers_pattern"])
    if raw.get("lora_bias") and raw.get("use_dora"):
        yield "lora_bias and use_dora stand together.", "both"
    if raw.get("lora_bias") and raw.get("init_lora_weights", True) not in (True, False):
        yield "lora_bias needs init_lora_weights to be true or false.", shown(raw["init_lora_weights"])


def check_activation(raw: dict[str, Any]) -> list[ValidationRow]:
    """Rows for an activated LoRA (aLoRA) that PEFT itself would not apply, or not from the invocation on."""
    tokens = raw.get("alora_invocation_tokens")
    if tokens is None:
        return []
    named, plain = "alora_invocation_tokens", "Train an activated LoRA of plain A and B, or a plain LoRA."
    rows = []
    if tokens == []:
        message = f"{named} is empty: PEFT never applies such an adapter."
        rows.append(error("config", message, observed=shown(tokens), hint="Name the tokens."))
    if raw.get("task_type") != "CAUSAL_LM":
        message = f"{named} needs the task_type CAUSAL_LM: for others PEFT never applies the adapter."
        rows.append(error("config", message, observed=shown(raw.get("task_type")), hint="Set it to CAUSAL_LM."))
    beside = [key for key in _NOT_ACTIVATED if raw.get(key)] + ["bias"] * (raw.get("bias", "none") != "none")
    if beside:
        message = f"{named} stands beside {', '.join(beside)}, which changes the tokens before the invocation, too."
        rows.append(error("config", message, hint=plain))
    return rows


def check_initialisation(value: object) -> list[ValidationRow]:
    """Rows for a base that was changed before training, and for what PEFT does not know."""
    name = value.lower() if isinstance(value, str) else ""
    if value is True or not value or name in _PLAIN_INITS:
        return []
    if name.startswith(_BASE_CHANGING_INITS) or name == "loftq":
        reason = f"init_lora_weights={shown(value)} changed the base weights that the adapter was trained on."
        return [error("config", reason, observed=shown(value), hint=_LOFTQ if name == "loftq" else _CONVERSION)]
    return [
        error(
            "config",
            "init_lora_weights has an unknown value, so the base weights may have been changed.",
            observed=shown(value),
            hint="Set it to true if the base weights were left as they are.",
        )
    ]
