"""Texts to ids and back: equal to the library's plain calls, with limits that are told before the work is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.text.conftest import SPECIAL

from multiflora_platform.text.errors import TokenizerError, TooManyTokens
from multiflora_platform.text.length_bound import longest_token
from multiflora_platform.text.tokenizer import Tokenizer

DEMO = Tokenizer.load(Path(__file__).parents[3] / "examples" / "demo" / "base")
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from([*SPECIAL, " ", "  ", "\n", "the", "naïve", "日本", "🌸", "  x", "<|end|>"]), max_size=30
).map("".join)


@given(text=TEXTS, special=st.booleans())
def test_ids_and_texts_are_those_of_the_plain_calls(tokenizer: Tokenizer, text: str, special: bool) -> None:
    ids = tokenizer.encode(text, special)
    assert ids == tokenizer._rust.encode(text, add_special_tokens=special).ids
    assert tokenizer.decode(ids, special) == tokenizer._rust.decode(ids, skip_special_tokens=special)


@given(text=TEXTS)
def test_the_bound_is_never_above_the_truth(tokenizer: Tokenizer, text: str) -> None:
    for each in (tokenizer, DEMO):
        assert each._least_tokens(text) <= len(each.encode(text, False))


@given(text=TEXTS.filter(bool), most=st.integers(0, 10))
def test_a_limit_refuses_exactly_what_is_longer(tokenizer: Tokenizer, text: str, most: int) -> None:
    ids = tokenizer.encode(text)
    if len(ids) <= most:
        assert tokenizer.encode(text, most=most) == ids
        return
    with pytest.raises(TooManyTokens) as refused:
        tokenizer.encode(text, most=most)
    count = refused.value.count
    assert count == len(ids) if refused.value.is_exact else most < count <= len(ids)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer")]
)
def test_a_file_in_the_tokenizers_place_is_told(content: bytes, words: str, tmp_path: Path) -> None:
    DEMO._rust.save(str(tmp_path / "tokenizer.json"))
    for name in ("special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TokenizerError, match=f"{name} .*{words}"):
            Tokenizer.load(tmp_path)
        (tmp_path / name).unlink()
        DEMO._rust.save(str(tmp_path / "tokenizer.json"))


def test_a_text_that_cannot_fit_is_not_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.load(Path(__file__).parents[3] / "examples" / "demo" / "base")
    monkeypatch.setattr(tokenizer, "_rust", None)
    tokenizer.__dict__["_longest_token"] = 16
    with pytest.raises(TooManyTokens, match="at least 125000 tokens"):
        tokenizer.encode("a" * 2_000_000, most=2048)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": True}]}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "  "}, "content": " "}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": " "}, "behavior": "Removed", "invert": False}},
        {"added_tokens": [{"id": 0, "content": "<s>", "rstrip": True}]},
        {"model": {"type": "WordPiece", "vocab": {"a": 0}}},
    ],
)
def test_where_characters_may_vanish_the_length_says_nothing(change: dict[str, object]) -> None:
    definition = json.loads(DEMO.definition)
    assert longest_token(definition) is not None
    assert longest_token({**definition, **change}) is None


def test_the_batch_call_is_used_because_it_lets_other_threads_run() -> None:
    calls = []

    class Spy:
        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> list[object]:
            calls.append(texts)
            return DEMO._rust.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    spied = Tokenizer.load(Path(__file__).parents[3] / "examples" / "demo" / "base")
    spied._rust = Spy()
    assert spied.encode("Say hello") == DEMO.encode("Say hello")
    assert calls == [["Say hello"]]
