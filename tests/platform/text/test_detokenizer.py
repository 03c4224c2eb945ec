"""The detokenizer's pieces, put together, are the whole text; no piece ends inside a character."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiflora_platform.text.detokenizer import make_detokenizer
from multiflora_platform.text.tokenizer import Tokenizer

FEW = settings(max_examples=60, deadline=None)
TEXTS = st.text(st.sampled_from("the quick fox é日🌸\n.,"), max_size=40)


def pieces(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None, **options: bool) -> list[str]:
    detokenizer = make_detokenizer(tokenizer, prompt or [], **options)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


@FEW
@given(text=TEXTS)
def test_encoded_text_comes_back_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@FEW
@given(data=st.data(), skip=st.booleans())
def test_random_ids_read_as_in_a_full_decode(tokenizer: Tokenizer, data: st.DataObject, skip: bool) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    together = "".join(pieces(tokenizer, ids, skip_special_tokens=skip))
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    if "�" in whole and any((tokenizer.token(token_id) or "").startswith("<0x") for token_id in ids):
        # A run of byte tokens with one wrong byte: the library rejects the whole run, a stream has sent its beginning.
        assert together.count("�") <= whole.count("�")
    else:
        assert together == whole


@FEW
@given(data=st.data())
def test_after_a_prompt_nothing_is_stripped(tokenizer: Tokenizer, data: st.DataObject) -> None:
    prompt = tokenizer.encode(data.draw(TEXTS.filter(str.strip)), False)
    ids = tokenizer.encode(data.draw(TEXTS), False)
    whole, before = tokenizer.decode(prompt + ids), tokenizer.decode(prompt)
    assert "".join(pieces(tokenizer, ids, prompt)) == whole[len(before) :]


@pytest.mark.parametrize("text", ["日", "🌸", "é"])
def test_a_character_is_held_back_until_it_is_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, False)
    out = pieces(tokenizer, ids, tokenizer.encode("the", False))
    if tokenizer.token_bytes.is_exact and text in tokenizer.decode(ids):
        assert [piece for piece in out if piece.strip()] == [piece for piece in out if text in piece]


def test_an_unfinished_character_shows_at_the_end(byte_level_folder) -> None:
    tokenizer = Tokenizer.load(byte_level_folder)
    ids = tokenizer.encode("日", False)[:1]
    assert pieces(tokenizer, ids) == ["", "�"]


def test_special_tokens_are_left_out_unless_asked_for(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.token_id("<s>"), *tokenizer.encode("the", False), tokenizer.token_id("</s>")]
    assert "<s>" not in "".join(pieces(tokenizer, ids))
    shown = "".join(pieces(tokenizer, ids, skip_special_tokens=False))
    assert shown.startswith("<s>")
    assert shown.endswith("</s>")


def test_special_tokens_stand_without_spaces_when_asked_for(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.token_id("<s>"), tokenizer.token_id("</s>")]
    out = pieces(tokenizer, ids, skip_special_tokens=False, spaces_between_special_tokens=False)
    assert "".join(out) == "<s></s>"


def test_ids_beyond_the_vocabulary_are_silent(tokenizer: Tokenizer) -> None:
    """Models pad their vocabulary; such a token has no text."""
    assert pieces(tokenizer, [tokenizer.vocab_size + 5]) == ["", ""]


def test_work_per_token_does_not_grow(byte_level_folder) -> None:
    """Thousands of bytes that never make a character come out as they go in, not all at the end."""
    tokenizer = Tokenizer.load(byte_level_folder)
    continuation = next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes.of(i) == b"\x80")
    assert pieces(tokenizer, [continuation] * 1000) == ["�"] * 1000 + [""]
