"""The flags of `serve`, made from the fields of Settings so that the two cannot drift apart."""

from __future__ import annotations

import argparse
import os
import types
import typing
from pathlib import Path
from typing import Any

from multiflora_platform.settings import (
    Settings,
    Source,
    flag,
    load_settings,
)

SEVERAL_WORDS = frozenset({"lora_modules"})


def add_settings_flags(parser: argparse.ArgumentParser) -> None:
    """Every setting as a flag; values stay strings here, Settings converts and checks them in one place."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with the same keys as the flags")
    for name, field in Settings.model_fields.items():
        help_text = (field.description or "").replace("%", "%%")
        if name == "model":
            parser.add_argument("model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help=help_text)
        elif field.annotation is bool:
            action = argparse.BooleanOptionalAction if field.default else "store_true"
            parser.add_argument(flag(name), action=action, default=argparse.SUPPRESS, help=help_text)
        elif name in SEVERAL_WORDS:
            parser.add_argument(
                flag(name), nargs="+", action="extend", default=argparse.SUPPRESS, metavar="NAME=PATH", help=help_text
            )
        elif _is_tuple(field.annotation):
            parser.add_argument(
                flag(name), action="append", default=argparse.SUPPRESS, metavar=_metavar(name), help=help_text
            )
        else:
            parser.add_argument(flag(name), default=argparse.SUPPRESS, metavar=_metavar(name), help=help_text)


def settings_from(arguments: argparse.Namespace) -> tuple[Settings, dict[str, Source]]:
    """Settings of this invocation. Raises ConfigurationError."""
    given = {name: value for name, value in vars(arguments).items() if name in Settings.model_fields}
    config = arguments.config or os.environ.get("MULTIFLORA_CONFIG")
    return load_settings(given, os.environ, Path(config) if config else None)


def _is_tuple(annotation: Any) -> bool:
    if isinstance(annotation, types.UnionType):
        return any(_is_tuple(part) for part in typing.get_args(annotation))
    return typing.get_origin(annotation) is tuple


def _metavar(name: str) -> str:
    return name.rsplit("_", 1)[-1].upper()
