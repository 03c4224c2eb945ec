"""Names of an adapter's tensors, as PEFT's versions write them. Knows neither shapes nor which modules there are."""

from __future__ import annotations

PREFIX = "base_model.model."
WRAPPED = ".base_layer"
TOKEN_ROWS = "token_adapter.trainable_tokens_delta"

_KINDS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")


def split_tensor_name(name: str) -> tuple[str, str] | None:
    """(module, kind) of a tensor, or None when its name is none of those that an adapter's tensors have.

    With or without `base_model.model.`, an adapter's name (`lora_A.default.weight`) and the final `.weight`. kind: one
    of _KINDS, "lora_B.bias", "base_layer" (the base's own weight) or "bias" (that of the base's linear, trained).
    """
    path = name.removeprefix(PREFIX)
    if path.endswith(".base_layer.weight"):
        return path.removesuffix(".base_layer.weight"), "base_layer"
    if path.endswith(".bias"):
        return _split_bias(path.removesuffix(".bias"))
    parts = path.removesuffix(".weight").split(".")
    for position in (len(parts) - 1, len(parts) - 2):
        if position > 0 and parts[position] in _KINDS:
            return ".".join(parts[:position]), parts[position]
    return None


def module_end(module: str) -> str:
    """The last part of its name, for people; of a wrapper of several parameters, that of what is wrapped."""
    return unwrapped(module).rpartition(".")[2]


def unwrapped(module: str) -> str:
    """What PEFT wraps once for each parameter of it that has LoRA."""
    while module.endswith(WRAPPED):
        module = module.removesuffix(WRAPPED)
    return module


def _split_bias(path: str) -> tuple[str, str]:
    parts = path.split(".")
    for position in (len(parts) - 1, len(parts) - 2):
        if position > 0 and parts[position] == "lora_B":
            return ".".join(parts[:position]), "lora_B.bias"
    # PEFT saves the bias of a linear with LoRA as base_layer.bias, that of another one under its own name.
    return path.removesuffix(".base_layer"), "bias"
