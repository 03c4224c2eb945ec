"""Which names adapters, aliases and tenants may have, and which labels keys may. Names never become paths."""

from __future__ import annotations

import re

from multiflora_platform.web.problems import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LONGEST_LABEL = 64
# Spaces and joiners that Python does not call printable, though people's languages and emoji are written with them.
_ALSO_PRINTABLE = str.maketrans(dict.fromkeys("\u00a0\u3000\u200c\u200d", "_"))
LABEL_RULE = f"1 to {LONGEST_LABEL} printable characters on one line, without spaces around them"
RULE = "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def check_name(name: str, pointer: str = "/name") -> str:
    """The name itself; raises InvalidRequest with the rule."""
    if "/" in name and _NAME.fullmatch(other := name.strip("/").replace("/", "--")):
        raise InvalidRequest(
            f"{name[:80]!r} is not a valid name: names stand in addresses, so they hold no slash. Use {other!r}.",
            pointer=pointer,
        )
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name[:80]!r} is not a valid name: use {RULE}.", pointer=pointer)
    return name


def check_label(label: str, pointer: str = "/name") -> str:
    """A label is for people: any text on one line. The label itself; raises InvalidRequest with the rule.

    What is not printable (line ends, terminal codes, marks that turn the writing's direction) could forge a log line.
    """
    is_printable = label.translate(_ALSO_PRINTABLE).isprintable()
    if not (0 < len(label) <= LONGEST_LABEL and is_printable and label == label.strip()):
        raise InvalidRequest(f"{label[:80]!r} cannot be a label: use {LABEL_RULE}.", pointer=pointer)
    return label


def check_alias(alias: str) -> str:
    """Like check_name, and not a number: `name@3` is a version."""
    check_name(alias, pointer="alias")
    if alias.isdecimal():
        raise InvalidRequest(
            f"An alias cannot be a number: name@{alias} already means version {alias}.", pointer="alias"
        )
    return alias
