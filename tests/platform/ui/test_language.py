"""The UI's texts: all go through the catalogue, and every language has all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.platform.ui.javascript import WORDS, Text, catalogue, is_key, keys, modules, texts

from multiflora_platform.ui.assets import FOLDER

LANGUAGES = ("zh",)
# Attributes of elements and components that people read or hear.
SHOWN = {"label", "title", "about", "hint", "placeholder", "aria-label", "alt", "any", "action", "problem", "summary"}
# Names, a key, and what somebody might type.
NOT_TRANSLATED = {
    "Multiflora",
    "CSV",
    "JSON",
    "URL",
    "UUID",
    "API",
    "Enter",
    "support-en",
    "hf://organisation/repository@revision",
}
# Their texts are programs, prompts, or the names of elements.
NO_TEXTS = {"lib/snippets.js", "lib/tour.js", "lib/model-card.js", "lib/language.js"}
SENTENCE = re.compile(r"^[A-Z][a-z]+([ .:!?…]|$)|^(?!color-mix|\(prefers).*[A-Za-z]{2,}\W? [a-z]+")
# What comes before a string that is none: a class, the name of a file, another string that it is compared with.
NO_TEXT_AFTER = re.compile(
    r"\b(class|kind|rel|font|name)(: |=\$\{)[^`]*$|[=!]== $|\b(class|name)=\$\{`[^`]*$|\bfile\($"
)


def used() -> set[str]:
    return {key for path in modules() for key in keys(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_text_once_and_no_other(language: str) -> None:
    written = [key for key, _ in catalogue(WORDS / language)]
    assert sorted(written) == sorted(used())


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_values_of_its_text(language: str) -> None:
    pairs = catalogue(WORDS / language)
    assert [pair for pair in pairs if set(_values(pair[0])) != set(_values(pair[1]))] == []
    assert [key for key, text in pairs if not text.strip()] == []


def _values(text: str) -> list[str]:
    return re.findall(r"\{\d+\}", text)


def test_chinese_has_its_own_punctuation_and_a_blank_beside_latin() -> None:
    faults = re.compile(
        r"[\u4e00-\u9fff][,;:?!.](\s|$)|[\u4e00-\u9fff]([A-Za-z0-9]|\{\d\}[a-z])|[A-Za-z0-9][\u4e00-\u9fff]"
    )
    assert [text for _, text in catalogue(WORDS / "zh") if faults.search(text)] == []


def test_no_text_goes_past_the_catalogue() -> None:
    found = [
        f"{path.relative_to(FOLDER)}:{one.line}: {text}"
        for path in modules()
        if path.relative_to(FOLDER).as_posix() not in NO_TEXTS
        for one in texts(path.read_text(encoding="utf-8"))
        for text in literal_texts(one)
    ]
    assert found == []


def test_a_text_that_goes_past_it_is_found() -> None:
    source = """
        const a = html`<p class="muted">Some text ${b} <${Field} label="A label" hint=${t("known")} /></p>`;
        toast("Something was done."); toast(`${b} was done.`);
        const c = { label: "Name", title: "Another one" }; toast(t`${b} was done.`);
        plural(n, "{0} row", "{0} rows", n); const d = /["'`]/;
    """
    past = [text for one in texts(source) for text in literal_texts(one)]
    assert past == ["Some text", "A label", "Something was done.", "{0} was done.", "Name", "Another one"]
    assert list(keys(source)) == ["known", "{0} was done.", "{0} rows"]


def literal_texts(one: Text) -> Iterator[str]:
    """What people would read of it and no catalogue has."""
    if one.before.endswith("html"):
        yield from _of_markup(one.text)
    elif (
        not is_key(one)
        and one.text not in NOT_TRANSLATED
        and SENTENCE.search(one.text)
        and not NO_TEXT_AFTER.search(one.before)
    ):
        yield one.text


def _of_markup(markup: str) -> Iterator[str]:
    """Its text and its attributes' values. Code and keys are no text."""
    outside = re.sub(r"<(code|kbd)\b[^>]*>.*?</\1>", "", markup)
    shown = [*re.split(r"<[^>]*>|\{\d+\}", outside)]
    shown += [value for name, value in re.findall(r'([\w-]+)="([^"]*)"', markup) if name in SHOWN]
    yield from (
        text.strip() for text in shown if re.search(r"[A-Za-z]{2}", text) and text.strip() not in NOT_TRANSLATED
    )
