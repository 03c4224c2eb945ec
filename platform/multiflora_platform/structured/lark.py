"""Formats to grammars as llguidance reads them: one Lark grammar, and beside it those that it refers to.

Literal text that contains one of the tokenizer's special tokens must come as that very token, never spelled out.
Runs where a compilation can be killed: nothing here is bounded. https://github.com/guidance-ai/llguidance
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llguidance import grammar_from, regex_to_lark

from multiflora_platform.structured.formats import (
    Format,
    FormatError,
    Structure,
    Whitespace,
    integral_counts,
)

# As many as an indented line break takes; without a bound a model may go on with them for ever.
DEFAULT_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
_ANY_TEXT = r"/(.|\n)*/"


def grammar_of(structure: Structure, special_tokens: Mapping[str, int]) -> str:
    """special_tokens: their ids by their text. Raises FormatError; what llguidance refuses shows when it reads it."""
    return _Writer(structure.whitespace, special_tokens).grammar(structure.format)


class _Writer:
    """Writes one grammar: each format becomes an expression, with rules of its own where it needs them."""

    def __init__(self, whitespace: Whitespace, special_tokens: Mapping[str, int]) -> None:
        self._json_options = _json_options(whitespace)
        self._special_tokens = special_tokens
        # Longest first, so that a token is not taken for a shorter one; without any the pattern never matches.
        self._special = re.compile("|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True))) or r"(?!)")
        # Rules of the main grammar, by name.
        self._rules: dict[str, str] = {}
        # Grammars beside it, which it calls by name: JSON schemas and foreign grammars.
        self._parts: list[dict[str, Any]] = []

    def grammar(self, form: Format) -> str:
        # A schema, or a client's own grammar, is all of it: no rule is needed around it.
        if form.get("type") == "json_schema":
            return json.dumps({"grammars": [{"json_schema": self._schema(form)}]})
        if form.get("type") == "grammar":
            return _foreign(form)
        self._rules["start"] = self._any(form)
        lark = "%llguidance {}\n" + "".join(f"{name}: {body}\n" for name, body in self._rules.items())
        return json.dumps({"grammars": [{"name": "main", "lark_grammar": lark}, *self._parts]})

    def _any(self, form: Any) -> str:
        """An expression of the main grammar."""
        if not isinstance(form, dict) or form.get("type") not in _WRITERS:
            kind = form.get("type") if isinstance(form, dict) else form
            raise FormatError(f"a format's type must be one of {', '.join(_WRITERS)}, not {str(kind)[:40]!r}")
        return _WRITERS[form["type"]](self, form)

    def _rule(self, body: str, option: str = "") -> str:
        name = f"r{len(self._rules)}"
        self._rules[name + option] = body
        return name

    def _part(self, **content: Any) -> str:
        name = f"p{len(self._parts)}"
        self._parts.append({"name": name, **content})
        return f"@{name}"

    def _json_schema(self, form: Format) -> str:
        return self._part(json_schema=self._schema(form))

    def _schema(self, form: Format) -> dict[str, Any]:
        schema = form.get("json_schema")
        if isinstance(schema, bool):
            schema = {} if schema else {"not": {}}  # the options below need an object to stand in
        if not isinstance(schema, dict):
            raise FormatError(f"a JSON schema must be an object, not {type(schema).__name__}")
        return {**integral_counts(schema), "x-guidance": self._json_options}

    def _regex(self, form: Format) -> str:
        return self._rule(f"/{regex_to_lark(_text(form, 'pattern'))}/")

    def _grammar(self, form: Format) -> str:
        return self._part(lark_grammar=_lark(_text(form, "grammar")))

    def _const(self, form: Format) -> str:
        return self._literal(_text(form, "value")) or '""'

    def _any_text(self, form: Format) -> str:
        return self._rule(_ANY_TEXT)

    def _sequence(self, form: Format) -> str:
        return self._rule(" ".join(self._elements(form)))

    def _or(self, form: Format) -> str:
        return self._rule(" | ".join(self._elements(form)))

    def _elements(self, form: Format) -> list[str]:
        elements = form.get("elements")
        if not isinstance(elements, list) or not elements:
            raise FormatError(f"{form['type']}.elements must be a list of at least one format")
        return [self._any(element) for element in elements]

    def _tag(self, form: Any, trigger: str = "") -> str:
        """trigger: what of `begin` has been written already."""
        if not isinstance(form, dict):
            raise FormatError("a tag must be an object with begin, content and end")
        begin, end = _text(form, "begin"), form.get("end") or ""
        content = form.get("content")
        ends = [end] if isinstance(end, str) else end
        if not isinstance(ends, list) or not all(isinstance(each, str) for each in ends):
            raise FormatError("a tag's end must be a string or a list of strings")
        # Free text would run over the end of its tag.
        if isinstance(content, dict) and content.get("type") == "any_text" and any(ends):
            body = self._text_until(ends)
        else:
            body = f"{self._any(content)} {self._one_of(ends)}"
        return self._rule(f"{self._literal(begin[len(trigger) :])} {body}")

    def _text_until(self, ends: list[str]) -> str:
        return self._rule(" | ".join(self._text_until_one(end) for end in ends))

    def _text_until_one(self, end: str) -> str:
        """Free text up to the first occurrence of `end`."""
        special = self._special.match(end)
        if special:
            # Free text never contains a special token, so the token ends it by itself.
            return f"{self._rule(_ANY_TEXT)} {self._literal(end)}"
        # `lazy` ends the rule at the first match; a special token cannot stand inside such a rule.
        plain, rest = self._split_at_special(end)
        return f"{self._rule(f'{_ANY_TEXT} {json.dumps(plain)}', '[lazy]')} {self._literal(rest)}"

    def _split_at_special(self, text: str) -> tuple[str, str]:
        found = self._special.search(text)
        return (text[: found.start()], text[found.start() :]) if found else (text, "")

    def _one_of(self, texts: list[str]) -> str:
        if len(texts) == 1:
            return self._literal(texts[0])
        return self._rule(" | ".join(self._literal(text) or '""' for text in texts))

    def _tags_with_separator(self, form: Format) -> str:
        tags = self._rule(" | ".join(self._tag(each) for each in _tags(form)))
        separator = self._literal(_text(form, "separator"))
        several = tags if form.get("stop_after_first") else f"{tags} ({separator} {tags})*"
        return self._rule(several if form.get("at_least_one") else f"({several})?")

    def _triggered_tags(self, form: Format) -> str:
        triggers = form.get("triggers")
        if not isinstance(triggers, list) or not triggers or not all(isinstance(t, str) and t for t in triggers):
            raise FormatError("triggered_tags.triggers must be a list of non-empty strings")
        by_trigger: dict[str, list[str]] = {trigger: [] for trigger in triggers}
        for each in _tags(form):
            begin = _text(each, "begin")
            trigger = next((t for t in triggers if begin.startswith(t)), None)
            if trigger is None:
                raise FormatError(f"the tag that begins with {begin[:40]!r} begins with none of the triggers")
            by_trigger[trigger].append(self._tag(each, trigger))
        bodies = [
            self._rule(f"{self._text_until_one(trigger)} ({' | '.join(tags)})")
            for trigger, tags in by_trigger.items()
            if tags
        ]
        one = self._rule(" | ".join(bodies))
        if form.get("stop_after_first"):
            return self._rule(one if form.get("at_least_one") else f"{one} | {self._rule(_ANY_TEXT)}")
        return self._rule(f"{one}{'+' if form.get('at_least_one') else '*'} {self._rule(_ANY_TEXT)}")

    def _literal(self, text: str) -> str:
        """The text as a sequence of strings and special tokens."""
        pieces, at = [], 0
        for found in self._special.finditer(text):
            pieces += [json.dumps(text[at : found.start()])] if found.start() > at else []
            pieces.append(f"<[{self._special_tokens[found[0]]}]>")
            at = found.end()
        return " ".join([*pieces, json.dumps(text[at:])] if at < len(text) else pieces)


_WRITERS = {
    "json_schema": _Writer._json_schema,
    "regex": _Writer._regex,
    "grammar": _Writer._grammar,
    "const_string": _Writer._const,
    "any_text": _Writer._any_text,
    "sequence": _Writer._sequence,
    "or": _Writer._or,
    "tag": _Writer._tag,
    "tags_with_separator": _Writer._tags_with_separator,
    "triggered_tags": _Writer._triggered_tags,
}


_LARK_START = re.compile(r"^\s*\??start\s*:(?!:)", re.MULTILINE)


def _foreign(form: Format) -> str:
    """A grammar that stands alone: Lark, GBNF, or llguidance's own JSON."""
    text = _text(form, "grammar")
    return text if text.lstrip().startswith("{") else json.dumps({"grammars": [{"lark_grammar": _lark(text)}]})


def _lark(text: str) -> str:
    """From Lark, or from the EBNF of llama.cpp and XGrammar (`root ::= …`)."""
    try:
        # llguidance's guess takes what begins with `?start:` or spaces for EBNF.
        return str(grammar_from("lark" if _LARK_START.search(text) else "grammar", text))
    except (ValueError, RecursionError) as error:
        raise FormatError(str(error)) from None


def _text(form: Any, key: str) -> str:
    value = form.get(key) if isinstance(form, dict) else None
    if not isinstance(value, str):
        raise FormatError(f"{key} must be a string")
    return value


def _tags(form: Format) -> list[Any]:
    tags = form.get("tags")
    if not isinstance(tags, list) or not tags:
        raise FormatError(f"{form['type']}.tags must be a list of at least one tag")
    return tags


def _json_options(whitespace: Whitespace) -> dict[str, Any]:
    if whitespace.pattern is None and whitespace.none:
        return {"whitespace_flexible": False}
    return {"whitespace_pattern": whitespace.pattern or DEFAULT_WHITESPACE}
