"""Tokenizers whose code is on the hub, against the libraries that this code calls, used as it uses them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from sentencepiece import SentencePieceProcessor
from tests.platform.conversion.conftest import texts, tiktoken_file, write

from multiflora_platform.conversion import hub_tokenizers
from multiflora_platform.conversion.child import ConversionError
from multiflora_platform.conversion.tokenizer_child import convert_tokenizer
from multiflora_platform.text.tokenizer import Tokenizer

Train = Callable[..., bytes]
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
QWEN += r"|\s+(?!\S)|\s+"
GLM4 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
HELLO = [{"role": "user", "content": "Hi"}]


def converted(folder: Path, files: dict[str, Any]) -> Tokenizer:
    convert_tokenizer(write(folder / "model", files), folder / "made")
    return Tokenizer.load(folder / "made")


def remote(name: str, **config: Any) -> dict[str, Any]:
    return {"tokenizer_class": name, "auto_map": {"AutoTokenizer": [f"tokenization.{name}", None]}, **config}


def pieces(model: bytes, text: str, tokens: dict[str, int]) -> list[int]:
    """As sentencepiece encodes each text between these tokens."""
    ids, rest = [], text
    processor = SentencePieceProcessor(model_proto=model)
    while rest:
        at, token = min(((rest.find(token), token) for token in tokens if token in rest), default=(len(rest), ""))
        ids += processor.encode(rest[:at]) + ([tokens[token]] if token else [])
        rest = rest[at + len(token) :]
    return ids


@pytest.mark.parametrize("form", ["raw", "chatml"])
def test_qwen(form: str, ranks: dict[bytes, int], tmp_path: Path) -> None:
    files = {
        "qwen.tiktoken": tiktoken_file(ranks),
        "tokenizer_config.json": remote("QWenTokenizer"),
        "generation_config.json": {"chat_format": form, "eos_token_id": len(ranks)},
    }
    ours = converted(tmp_path, files)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
    special = {name: len(ranks) + i for i, name in enumerate(names)}
    theirs = tiktoken.Encoding("Qwen", pat_str=QWEN, mergeable_ranks=ranks, special_tokens=special)
    for text in texts("<|im_start|>", "<|im_end|>", "<|extra_204|>", "Cafe\u0301", "12 345", count=200):
        ids = theirs.encode(unicodedata.normalize("NFC", text), allowed_special="all")
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.vocab_size == len(ranks) + 208
    if form == "raw":
        assert (ours.eos_token_id, ours.templates.is_empty) == (special["<|endoftext|>"], True)
        return
    assert ours.eos_token_id == special["<|im_end|>"]
    assert ours.apply_chat_template(HELLO) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("listed", [False, True])
def test_chatglm(listed: bool, sentencepiece: Train, tmp_path: Path) -> None:
    """Also where tokenizer_config.json lists only some of the special tokens, as ChatGLM3's does."""
    model = sentencepiece()
    first = SentencePieceProcessor(model_proto=model).vocab_size()
    names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    special = {name: first + i for i, name in enumerate(names)}
    config = remote("ChatGLMTokenizer")
    if listed:
        plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False}
        some = {str(special[name]): {"content": name, **plain} for name in ("[gMASK]", "sop", "<|user|>")}
        config |= {"added_tokens_decoder": some, "chat_template": "[gMASK]sop<|user|>\n {{ messages[0]['content'] }}"}
    ours = converted(tmp_path, {"tokenizer.model": model, "tokenizer_config.json": config})
    for text in texts("<|user|>", "<|observation|>", "[gMASK]"):
        ids = pieces(model, text, special)
        assert ours.encode(text, add_special_tokens=False) == ids
        assert ours.encode(text) == [special["[gMASK]"], special["sop"], *ids]
    assert ours.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert ours.templates.is_empty is not listed
    if listed:
        assert ours.apply_chat_template(HELLO) == "[gMASK]sop<|user|>\n Hi"


def test_glm4(ranks: dict[bytes, int], tmp_path: Path) -> None:
    names = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|user|>"]
    special = {name: len(ranks) + i for i, name in enumerate(names)}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    listed = {str(token_id): {"content": name, **plain} for name, token_id in special.items()}
    config = remote("ChatGLM4Tokenizer", added_tokens_decoder=listed, eos_token="<|endoftext|>")
    ours = converted(tmp_path, {"tokenizer.model": tiktoken_file(ranks), "tokenizer_config.json": config})
    theirs = tiktoken.Encoding("GLM-4", pat_str=GLM4, mergeable_ranks=ranks, special_tokens=special)
    for text in texts("<|user|>", "<sop>", "1234567"):
        ids = theirs.encode(text, allowed_special="all")
        assert ours.encode(text) == [special["[gMASK]"], special["<sop>"], *ids]
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.eos_token_id == special["<|endoftext|>"]
    assert ours.special_ids == set(special.values())
    files = {"tokenizer.model": tiktoken_file(ranks), "tokenizer_config.json": remote("ChatGLM4Tokenizer")}
    with pytest.raises(ConversionError, match=r"no token \[gMASK\], which begins every text"):
        converted(tmp_path / "without", files)


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_baichuan(begun: bool, rule: str, sentencepiece: Train, tmp_path: Path) -> None:
    model = sentencepiece(normalization_rule_name=rule, remove_extra_whitespaces=rule != "identity")
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = remote("BaichuanTokenizer", add_bos_token=begun, **named)
    ours = converted(tmp_path, {"tokenizer.model": model, "tokenizer_config.json": config})
    special = {"<s>": 1, "</s>": 2}
    processor = SentencePieceProcessor(model_proto=model)
    for text in texts("<s>", "</s>"):
        ids = pieces(model, text, special)
        assert ours.encode(text) == [1] * begun + ids
        plain = [token_id for token_id in ids if token_id not in special.values()]
        if plain == ids:
            assert ours.decode(ids) == processor.decode(ids)


def test_a_conversion_that_sentencepiece_contradicts_is_refused(
    sentencepiece: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an older transformers would: here by a token that sentencepiece alone does not know as one."""
    monkeypatch.setattr(hub_tokenizers, "_PROBES", ("a", "</s>"))
    files = {"tokenizer.model": sentencepiece(), "tokenizer_config.json": remote("BaichuanTokenizer", eos_token="</s>")}
    with pytest.raises(ConversionError, match="pip install -U transformers"):
        converted(tmp_path, files)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tokenizer_config.json": remote("QWenTokenizer")}, "needs qwen.tiktoken"),
        ({"tokenizer_config.json": remote("BaichuanTokenizer")}, "needs tokenizer.model"),
        ({"tokenizer_config.json": remote("ChatGLMTokenizer")}, "needs tokenizer.model"),
        ({"tokenizer_config.json": remote("QWenTokenizer"), "qwen.tiktoken": "not base64"}, ""),
        ({"tokenizer_config.json": remote("ChatGLMTokenizer"), "tokenizer.model": b"nonsense"}, ""),
    ],
)
def test_what_they_lack_is_named(files: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as caught:
        converted(tmp_path, files)
    assert words in str(caught.value)
