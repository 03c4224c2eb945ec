"""Typed reading of a configuration file's values, with errors that name the key. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from multiflora_engine.models.errors import ModelError, mistaken_file


def read_json_object(path: Path) -> dict[str, Any]:
    """The file's JSON object. Raises ModelError when it is missing, unreadable or something else."""
    found = b""
    try:
        found = path.read_bytes()
        content = json.loads(found)
    except FileNotFoundError:
        raise ModelError(_missing(path)) from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        told = mistaken_file(path, found) or f"{path} is not valid JSON ({error}). Download or save the model again."
        raise ModelError(told) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object. Download or save the model again.")
    return content


def _missing(path: Path) -> str:
    if (path.parent / "adapter_config.json").is_file():
        advice = "Serve its base model, and register it: `multiflora adapters add`, or --lora-modules NAME=FOLDER."
        return f"{path.parent} is an adapter, not a model. {advice}"
    return f"{path.parent} has no {path.name}. Give a folder that Hugging Face's save_pretrained wrote, or a hub id."


class ConfigFields:
    """The values of one JSON object; a null counts as missing. source: how errors call the object; aliases: how they
    call a key that the file has another word for."""

    def __init__(
        self,
        raw: Mapping[str, Any],
        defaults: Mapping[str, Any],
        source: str = "config.json",
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._raw = {**defaults, **{key: value for key, value in raw.items() if value is not None}}
        self._nulls = {key for key, value in raw.items() if value is None}
        self._source = source
        self._aliases = aliases

    def integer(self, key: str, fallback: int | None = None, minimum: Literal[0, 1] = 1) -> int:
        """An integer of at least `minimum`; without a fallback the key is required."""
        value = self._raw.get(key, fallback)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self._wrong(key, "a positive integer" if minimum else "an integer from 0 on", value)
        return value

    def number(self, key: str, fallback: float | None = None) -> float:
        """A positive number; without a fallback the key is required."""
        value = self._raw.get(key, fallback)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise self._wrong(key, "a positive number", value)
        return float(value)

    def given(self, key: str) -> bool:
        """Whether the file says anything but null, or there is a default."""
        return key in self._raw

    def optional_number(self, key: str, fallback: float | None = None) -> float | None:
        """A positive number; None where the file says null, or nothing and there is no fallback."""
        if key in self._nulls or (fallback is None and key not in self._raw):
            return None
        return self.number(key, fallback)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of positive numbers."""
        value = self._raw.get(key)
        if not isinstance(value, list) or not all(isinstance(item, int | float) and item > 0 for item in value):
            raise self._wrong(key, "a list of positive numbers", value)
        return tuple(float(item) for item in value)

    def integers(self, key: str, fallback: tuple[int, ...]) -> tuple[int, ...]:
        """A list of integers from 0 on."""
        value = self._raw.get(key, fallback)
        if not isinstance(value, list | tuple) or not all(type(item) is int and item >= 0 for item in value):
            raise self._wrong(key, "a list of integers from 0 on", value)
        return tuple(value)

    def flag(self, key: str, fallback: bool | None = None) -> bool:
        value = self._raw.get(key, fallback)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def require(self, key: str, *, served: bool, fallback: bool | None = None) -> None:
        """Raises ModelError for a switch that stands otherwise than is served. fallback: where the file is silent."""
        if self.flag(key, fallback) != served:
            raise ModelError(f"{self._source}: {key} is {str(not served).lower()}, which is not served.")

    def text(self, key: str) -> str:
        value = self._raw.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def _wrong(self, key: str, expected: str, value: object) -> ModelError:
        found = "is missing" if value is None else f"is {str(value)[:80]!r}"
        name = self._aliases.get(key, key)
        return ModelError(f"{self._source}: {name} {found}; it has to be {expected}. Download or save the model again.")
