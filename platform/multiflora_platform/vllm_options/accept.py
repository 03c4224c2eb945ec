"""From options under vLLM's names and ours to settings: one rule for command line, environment, file and Python."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.vllm_options.engine import ENGINE
from multiflora_platform.vllm_options.model import MODEL
from multiflora_platform.vllm_options.rules import Option
from multiflora_platform.vllm_options.server import SERVER

OPTIONS: Mapping[str, Option] = {**MODEL, **ENGINE, **SERVER}
"""By vLLM's name, as Python writes it. What is missing here but a field of Settings is taken as that."""


def accept(options: Mapping[str, object], spelled: Callable[[str], str] = str) -> tuple[dict[str, object], list[str]]:
    """The settings that the options become, and one line for each option without effect.

    options: vLLM's names or ours, with - or _; None is an option that was not given. spelled: how the user wrote a
    name. Raises ConfigurationError for what cannot be (cause and next step), and for unknown names with the nearest.
    """
    settings: dict[str, object] = {}
    notices: list[str] = []
    for given, value in options.items():
        name = given.replace("-", "_")
        if value is None:
            require_known(name, spelled)
        elif name in OPTIONS:
            verdict = OPTIONS[name].judge(spelled(name), value)
            for setting, judged in verdict.settings.items():
                settings[setting] = joined(settings.get(setting), judged)
            notices += [verdict.notice] if verdict.notice else []
        else:
            require_known(name, spelled)
            settings[name] = value
    return settings, notices


def joined(earlier: object, value: object) -> object:
    """A setting's value after another one: parts, such as those of hf_overrides, are added."""
    return earlier | value if isinstance(earlier, dict) and isinstance(value, dict) else value


def require_known(name: str, spelled: Callable[[str], str] = str) -> None:
    """Raises ConfigurationError that names what was probably meant."""
    if name in OPTIONS or name in Settings.model_fields:
        return
    near = nearest(name)
    meant = f"; did you mean {spelled(near)}?" if near else "; `multiflora config show` lists all settings"
    raise ConfigurationError(f"unknown option {spelled(name)}{meant}")


def nearest(name: str) -> str | None:
    """The known name that is most like this one; None when none is like it."""
    found = difflib.get_close_matches(name, sorted({*Settings.model_fields, *OPTIONS}), n=1)
    return found[0] if found else None
