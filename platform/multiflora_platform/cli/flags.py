"""The flags of `serve`: every field of Settings, and every option of vLLM's, so that none of them can drift apart."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from multiflora_platform.configuration import Configuration, configure
from multiflora_platform.settings import Settings, flag
from multiflora_platform.vllm_options.accept import OPTIONS, nearest
from multiflora_platform.vllm_options.rules import Option

_SEVERAL_WORDS = {"lora_modules": "NAME=PATH", "served_model_name": "NAME"}
_OF_VLLM = [name for name in OPTIONS if name not in Settings.model_fields]


def add_settings_flags(parser: argparse.ArgumentParser) -> None:
    """Every setting as a flag; values stay strings here, Settings converts and checks them in one place."""
    parser.usage = f"{parser.prog} [MODEL] [OPTIONS]    (all options: {parser.prog} --help)"
    parser.epilog = "vLLM's other options are accepted as well; docs/vllm.md tells what each does here."
    parser.set_defaults(settings_parser=parser)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with the same keys as the flags")
    parser.add_argument("model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help=_help("model"))
    parser.add_argument("--model", dest="model_flag", default=argparse.SUPPRESS, metavar="MODEL", help="as MODEL")
    for name in Settings.model_fields:
        if name != "model":
            short, form = _setting_form(name)
            parser.add_argument(*short, flag(name), **form)
    for name in _OF_VLLM:
        short, form = _option_form(OPTIONS[name])
        parser.add_argument(*short, flag(name), **form)


def add_program_flags(parser: argparse._ActionsContainer, names: Iterable[str]) -> None:
    """Flags of a Python program of a user's: --model and these options, numbers as such; None is one not given."""
    parser.add_argument("--model", metavar="MODEL", help=_help("model"))
    for name in names:
        short, form = _setting_form(name) if name in Settings.model_fields else _option_form(OPTIONS[name])
        if _takes_number(name):
            form["type"] = _number
        parser.add_argument(*short, flag(name), **{**form, "default": None})


def configuration_from(arguments: argparse.Namespace) -> Configuration:
    """Of this invocation; options without effect are told on stderr. Raises ConfigurationError; two models that
    differ are a usage error."""
    given = {name: value for name, value in vars(arguments).items() if name in Settings.model_fields or name in OPTIONS}
    if (flagged := getattr(arguments, "model_flag", None)) is not None:
        if given.get("model", flagged) != flagged:
            arguments.settings_parser.error(f"MODEL is {given['model']}, --model is {flagged}; give one of them")
        given["model"] = flagged
    config = arguments.config or os.environ.get("MULTIFLORA_CONFIG")
    configuration = configure(given, os.environ, Path(config) if config else None)
    for notice in configuration.notices:
        print(f"multiflora: {notice}", file=sys.stderr)
    return configuration


def unknown_flags(unknown: Sequence[str]) -> str:
    """What is wrong with arguments that no flag takes, with the flag that was probably meant."""
    first = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
    near = nearest(first.lstrip("-").removeprefix("no-").replace("-", "_")) if first.startswith("-") else None
    meant = f"; did you mean {flag(near) if near != 'model' else '--model'}?" if near else ""
    return f"unknown argument {first}{meant}"


def is_switch(name: str) -> bool:
    """Whether a setting or an option is a flag without a value."""
    if name in Settings.model_fields:
        return Settings.model_fields[name].annotation is bool
    return name in OPTIONS and OPTIONS[name].shape == "switch"


def _setting_form(name: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Short flags, and what the parser is told of the long one."""
    form: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(name)}
    if is_switch(name):
        # --no-no-auth would say nothing twice.
        form["action"] = "store_true" if name.startswith(("no_", "disable_")) else argparse.BooleanOptionalAction
    elif name in OPTIONS and OPTIONS[name].shape == "optional":
        form |= {"nargs": "?", "const": True, "metavar": _metavar(name)}
    elif name in _SEVERAL_WORDS:
        form |= {"nargs": "+", "action": "extend", "metavar": _SEVERAL_WORDS[name]}
    elif _is_tuple(Settings.model_fields[name].annotation):
        form |= {"action": "append", "metavar": _metavar(name)}
    else:
        form["metavar"] = _metavar(name)
    return OPTIONS[name].short if name in OPTIONS else (), form


def _option_form(option: Option) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Not in the help, which would be as long again with flags that do nothing."""
    shapes: dict[str, dict[str, Any]] = {
        "switch": {"action": argparse.BooleanOptionalAction},
        "optional": {"nargs": "?", "const": True},
        "value": {},
        "values": {"nargs": "+", "action": "extend"},
    }
    return option.short, {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS, **shapes[option.shape]}


def _takes_number(name: str) -> bool:
    """Whether a program may reckon with its value."""
    if name in Settings.model_fields:
        annotation = Settings.model_fields[name].annotation
        return bool({int, float} & {annotation, *typing.get_args(annotation)})
    return OPTIONS[name].shape == "value"


def _number(text: str) -> int | float | str:
    """What is no number (32k, auto) stays as it is."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _help(name: str) -> str:
    return (Settings.model_fields[name].description or "").replace("%", "%%")


def _is_tuple(annotation: Any) -> bool:
    if isinstance(annotation, types.UnionType):
        return any(_is_tuple(part) for part in typing.get_args(annotation))
    return typing.get_origin(annotation) is tuple


def _metavar(name: str) -> str:
    return name.rsplit("_", 1)[-1].upper()
