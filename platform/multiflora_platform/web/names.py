"""Which names adapters, aliases and tenants may have. Names never become paths."""

from __future__ import annotations

import re

from multiflora_platform.web.problems import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RULE = "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"


def check_name(name: str, pointer: str = "/name") -> str:
    """The name itself; raises InvalidRequest with the rule."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name[:80]!r} is not a valid name: use {RULE}.", pointer=pointer)
    return name


def check_alias(alias: str) -> str:
    """Like check_name, and not a number: `name@3` is a version."""
    check_name(alias, pointer="alias")
    if alias.isdecimal():
        raise InvalidRequest(
            f"An alias cannot be a number: name@{alias} already means version {alias}.", pointer="alias"
        )
    return alias
