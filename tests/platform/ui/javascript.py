"""Reads the UI's modules as far as its texts go: strings, templates and what stands between them. Knows no grammar."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from multiflora_platform.ui.assets import FOLDER

WORDS = FOLDER / "words"
# A slash behind one of these begins a regular expression, not a division.
_BEFORE_REGEX = re.compile(r"([(,=:\[!&|?{};\n]|\breturn) *$")
_REGEX = re.compile(r"/(?:\[(?:\\.|[^\]\\\n])*\]|\\.|[^/\\\[\n])+/[a-z]*")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Text:
    """A string or template of a module."""

    # With {0}, {1} for a template's values.
    text: str
    # What stands before it on its line; of a template its tag, too.
    before: str
    line: int
    is_template: bool


def modules() -> list[Path]:
    """Those with texts: neither vendored ones nor the catalogues."""
    folders = ("lib", "components", "pages")
    return [FOLDER / "app.js", *sorted(path for name in folders for path in (FOLDER / name).rglob("*.js"))]


def texts(source: str) -> list[Text]:
    """All of a module, outer ones before those inside of their values."""
    found: list[Text] = []
    _code(source, 0, found)
    return found


def _code(source: str, at: int, found: list[Text]) -> int:
    """Up to the brace that closes what began before `at`, or the end."""
    depth = 0
    while at < len(source):
        char = source[at]
        if source.startswith(("//", "/*"), at):
            at = source.index("\n" if source[at + 1] == "/" else "*/", at) + 1
        elif char in "\"'":
            end = _string_end(source, at)
            found.append(_text(source, at, _ESCAPE.sub(r"\1", source[at + 1 : end - 1]), is_template=False))
            at = end
        elif char == "`":
            at = _template(source, at, found)
        elif char == "/" and _BEFORE_REGEX.search(source, max(0, at - 20), at) and (regex := _REGEX.match(source, at)):
            at = regex.end()
        else:
            depth += (char == "{") - (char == "}")
            at += 1
            if depth < 0:
                return at
    return at


def _string_end(source: str, at: int) -> int:
    end = at + 1
    while source[end] != source[at]:
        end += 2 if source[end] == "\\" else 1
    return end + 1


def _template(source: str, at: int, found: list[Text]) -> int:
    place = len(found)
    start, text, values = at, "", 0
    at += 1
    while source[at] != "`":
        if source.startswith("${", at):
            text += f"{{{values}}}"
            values += 1
            at = _code(source, at + 2, found)
        else:
            at += source[at] == "\\"
            text += source[at]
            at += 1
    found.insert(place, _text(source, start, text, is_template=True))
    return at + 1


def _text(source: str, at: int, text: str, *, is_template: bool) -> Text:
    return Text(text, source[source.rfind("\n", 0, at) + 1 : at], source.count("\n", 0, at) + 1, is_template)


def keys(source: str) -> Iterator[str]:
    """The sentences that `t` and `plural` are asked for."""
    for one in texts(source):
        if re.search(r"(?<![\w.])t\(?$", one.before) or _is_of_many(one):
            yield one.text


def is_key(one: Text) -> bool:
    """Whether it goes through `t` or `plural`."""
    return bool(re.search(r"(?<![\w.])(t\(?|plural\([^\"]*(\"[^\"]*\", )?)$", one.before))


def _is_of_many(one: Text) -> bool:
    return bool(re.search(r"(?<![\w.])plural\([^\"]*\"[^\"]*\", $", one.before))


def catalogue(folder: Path) -> list[tuple[str, str]]:
    """[English, translated], in order, of all files of a language."""
    line = re.compile(r'^  ("(?:[^"\\]|\\.)*"): ("(?:[^"\\]|\\.)*"),$', re.MULTILINE)
    pairs = [pair for path in sorted(folder.glob("*.js")) for pair in line.findall(path.read_text(encoding="utf-8"))]
    return [(_ESCAPE.sub(r"\1", key[1:-1]), _ESCAPE.sub(r"\1", value[1:-1])) for key, value in pairs]
