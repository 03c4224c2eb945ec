"""The tokenizer of vLLM's programs does what transformers' does, call by call."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers.models.auto.tokenization_auto import AutoTokenizer

from multiflora.offline.program_tokenizer import ProgramTokenizer
from multiflora_platform.text.tokenizer import Tokenizer

BASE = Path(__file__).parents[4] / "examples" / "demo" / "base"
TEXTS = ["Hello, my friend.", "Grüße <|im_end|> 3.14", ""]
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Bye"},
]


@pytest.fixture(scope="module")
def ours() -> ProgramTokenizer:
    return ProgramTokenizer(Tokenizer.load(BASE))


@pytest.fixture(scope="module")
def theirs():
    return AutoTokenizer.from_pretrained(BASE)


def test_texts_become_the_same_ids_and_back(ours: ProgramTokenizer, theirs) -> None:
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    encoded = theirs(TEXTS)
    assert ours(TEXTS) == {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
    assert ours.batch_decode(encoded["input_ids"]) == theirs.batch_decode(encoded["input_ids"])
    assert ours.decode(7) == theirs.decode(7)


def test_special_tokens_are_named_alike(ours: ProgramTokenizer, theirs) -> None:
    for name in ("eos_token", "eos_token_id", "bos_token", "bos_token_id", "vocab_size"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours) == len(theirs)
    assert ours.all_special_ids == sorted(theirs.all_special_ids)
    end = theirs.eos_token
    assert ours.convert_tokens_to_ids(end) == theirs.convert_tokens_to_ids(end)
    assert ours.convert_tokens_to_ids([end, "no such token"]) == [theirs.convert_tokens_to_ids(end), None]


@pytest.mark.parametrize("asks", [True, False])
def test_conversations_become_the_same_text_and_ids(ours: ProgramTokenizer, theirs, asks: bool) -> None:
    text = theirs.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=asks)
    assert ours.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=asks) == text
    encoded = theirs.apply_chat_template(CONVERSATION, add_generation_prompt=asks, return_dict=True)
    assert ours.apply_chat_template(CONVERSATION, add_generation_prompt=asks) == encoded["input_ids"]
    assert ours.apply_chat_template(CONVERSATION, add_generation_prompt=asks, return_dict=True) == dict(encoded)
    bare = "{{ messages[0].content }} {{ mood }}"
    assert ours.apply_chat_template(CONVERSATION, chat_template=bare, tokenize=False, mood="x") == "Be brief. x"
