"""Fields of a body that name an adapter as other servers' requests do; here they would be unknown, and the base model
would answer in the adapter's place.

Knows how such fields are called, whoever's they are (SGLang's lora_path, LoRAX's adapter_id, vLLM's lora_request,
llama.cpp's lora, ...); not which adapters there are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from multiflora_platform.web.openai_errors import invalid

MENTIONS = (b"lora", b"Lora", b"LoRA", b"LORA", b"adapter", b"Adapter", b"ADAPTER", b"peft", b"Peft", b"PEFT")
"""A body without any of these names no adapter so."""
_ABOUT = re.compile(r"(?<![a-z])(q?loras?|adapters?|peft)(?![a-z])")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# Where clients put what their library has no field for.
_NESTED = ("extra_body", "parameters", "sampling_params")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def refuse_foreign_names(content: bytes, known: Collection[str]) -> None:
    """content: valid JSON of an object. known: the fields that the body has. Raises ApiError for an unknown field about
    adapters; one that says nothing, or what `model` says, is none."""
    fields = _fields.decode(content)
    model = _value(fields.get("model"))
    for name, value in _about_adapters(fields, known):
        if value and value not in ([None], model):
            raise invalid(
                name, f"{name} is not read here; name the adapter in model, or several with their weights in adapters."
            )


def _about_adapters(fields: dict[str, msgspec.Raw], known: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name, raw in fields.items():
        if name not in known and _is_about_adapters(name):
            yield name, _value(raw)
        elif name in _NESTED and isinstance(inner := _value(raw), dict):
            yield from ((f"{name}.{key}", value) for key, value in inner.items() if _is_about_adapters(key))


def _is_about_adapters(name: str) -> bool:
    """lora_path, loraPath, LoRA, merged-adapters; not `explorable`."""
    return _ABOUT.search(_HUMP.sub("_", name.replace("LoRA", "lora")).lower()) is not None


def _value(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else msgspec.json.decode(raw)
