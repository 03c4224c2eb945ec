"""From command line, environment and file to settings: what wins, where each value came from, what is told.

Knows no setting by name; vLLM's names mean here what vllm_options says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from multiflora_engine.protocol.config import SizedConfig
from multiflora_engine.protocol.messages import Ready
from multiflora_platform.settings import ENV_PREFIX, ConfigurationError, Settings, flag, shown
from multiflora_platform.vllm_options.accept import OPTIONS, accept, joined

Source = Literal["cli", "env", "file", "default"]
"""Where a value came from."""


_CHOSEN = frozenset({"gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs"})
"""Settings that an engine chooses by its device, where none is given."""


def value_and_source(
    settings: Settings, sources: Mapping[str, str], name: str, sizes: SizedConfig | Ready | None
) -> tuple[str, str]:
    """A setting as text, secrets hidden, and cli, env, file, default, or device: an engine chooses it. sizes: as it has
    chosen, or would; None where that is not known."""
    value = getattr(settings, name)
    chosen = getattr(sizes, name, None) if value is None and name in _CHOSEN else None
    return (shown(name, value), sources.get(name, "default")) if chosen is None else (shown(name, chosen), "device")


@dataclass(frozen=True)
class Configuration:
    """What a server is started with. sources: by setting. notices: a line for each option that has no effect."""

    settings: Settings
    sources: Mapping[str, Source]
    notices: tuple[str, ...]


_Layer = tuple[Source, Callable[[str], str], Mapping[str, Any]]
"""Source, how a name is spelled there, and values by name."""


def configure(cli: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> Configuration:
    """Merge command line > environment > file > default. cli: by setting's or vLLM's name.

    Raises ConfigurationError naming the setting, its value's place and what is accepted.
    """
    keys = read_keys(file, f"--config {file}") if file else {}
    return _merged([_of_file(keys, str(file)), _of_environment(environ), ("cli", flag, cli)])


def configure_keys(keys: Mapping[str, Any], environ: Mapping[str, str], file: str) -> Configuration:
    """The same of keys of another file, which says what holds everywhere: the environment has what it leaves out."""
    return _merged([_of_environment(environ), _of_file(keys, file)])


def _of_file(keys: Mapping[str, Any], file: str) -> _Layer:
    return "file", lambda name: f"`{name}:` in {file}", keys


def _of_environment(environ: Mapping[str, str]) -> _Layer:
    names = (*Settings.model_fields, *(name for name in OPTIONS if name not in Settings.model_fields))
    # An empty variable counts as unset.
    return "env", _variable, {name: value for name in names if (value := environ.get(_variable(name), "")) != ""}


def _merged(layers: Sequence[_Layer]) -> Configuration:
    """Later layers win."""
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


def read_keys(path: Path, named: str) -> dict[str, Any]:
    """Of a file of YAML. named: as errors name the file. Raises ConfigurationError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {named}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigurationError(f"{named} is not YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{named} is not YAML: {str(error).splitlines()[0]}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{named} must hold `key: value` lines")
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
