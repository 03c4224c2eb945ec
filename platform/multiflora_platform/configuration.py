"""From command line, environment and file to settings: what wins, where each value came from, what is told.

Knows no setting by name; vLLM's names mean here what vllm_options says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from multiflora_platform.settings import ENV_PREFIX, ConfigurationError, Settings, flag, shown
from multiflora_platform.vllm_options.accept import OPTIONS, accept, joined

Source = Literal["cli", "env", "file", "default"]
"""Where a value came from."""


@dataclass(frozen=True)
class Configuration:
    """What a server is started with. sources: by setting. notices: a line for each option that has no effect."""

    settings: Settings
    sources: Mapping[str, Source]
    notices: tuple[str, ...]


def configure(cli: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> Configuration:
    """Merge command line > environment > file > default. cli: by setting's or vLLM's name.

    Raises ConfigurationError naming the setting, its value's place and what is accepted.
    """
    environment = {
        name: environ[_variable(name)]
        for name in (*Settings.model_fields, *(name for name in OPTIONS if name not in Settings.model_fields))
        if environ.get(_variable(name), "") != ""  # an empty variable counts as unset
    }
    layers: tuple[tuple[Source, Callable[[str], str], Mapping[str, Any]], ...] = (
        ("file", lambda name: f"`{name}:` in {file}", _read_file(file) if file else {}),
        ("env", _variable, environment),
        ("cli", flag, cli),
    )
    values: dict[str, Any] = {}
    sources: dict[str, Source] = dict.fromkeys(Settings.model_fields, "default")
    notices: list[str] = []
    for source, spelled, layer in layers:
        accepted, told = accept(layer, spelled)
        whole = {name.replace("-", "_") for name in layer}
        for name, value in accepted.items():
            # A part of a setting, such as --rope-theta of hf_overrides, leaves the other parts of an earlier layer.
            values[name] = value if name in whole else joined(values.get(name), value)
        sources.update(dict.fromkeys(accepted, source))
        notices += told
    try:
        return Configuration(Settings(**values), sources, tuple(notices))
    except ValidationError as error:
        raise ConfigurationError(_explain(error, sources)) from None


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper()


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read --config {path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigurationError(f"--config {path} is not YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--config {path} is not YAML: {str(error).splitlines()[0]}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"--config {path} must hold `key: value` lines")
    return {str(key): value for key, value in content.items()}


def _explain(error: ValidationError, sources: Mapping[str, Source]) -> str:
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return message
    field = str(first["loc"][0])
    place = {"env": _variable(field), "file": f"key {field} of the config file"}.get(
        sources.get(field, "cli"), flag(field)
    )
    return f"{place}: {message} (got {shown(field, repr(first['input']))})"
