"""Vocabularies that transformers converts, against transformers on the same folder: ids, texts, templates."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.platform.conversion.conftest import texts, tiktoken_file, write
from tests.platform.text.conftest import byte_level
from transformers import AutoTokenizer

from multiflora_platform.conversion import tokenizer_child
from multiflora_platform.conversion.child import ConversionError
from multiflora_platform.conversion.tokenizer_child import convert_tokenizer
from multiflora_platform.text.tokenizer import Tokenizer

TEMPLATE = "{% for message in messages %}<|user|>{{ message['content'] }}{{ eos_token }}{% endfor %}"
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
LLAMA = {**NAMED, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "chat_template": TEMPLATE}
USER = {"content": "<|user|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}

BEGIN = {**USER, "content": "</s>", "normalized": True}

Files = dict[str, Any]
Train = Callable[..., bytes]


def llama(train: Train, **files: Any) -> Files:
    return {"tokenizer.model": train(), "tokenizer_config.json": LLAMA, **files}


def gemma(train: Train) -> Files:
    model = train(pad_id=0, eos_id=1, bos_id=2, unk_id=3, user_defined_symbols=["<start_of_turn>", "\n\n"])
    tokens = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return {"tokenizer.model": model, "tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", **tokens}}


def byte_level_files(tokenizer_class: str, folder: Path, **config: Any) -> Files:
    byte_level().model.save(str(folder))
    files = {name: (folder / name).read_text(encoding="utf-8") for name in ("vocab.json", "merges.txt")}
    return {**files, "tokenizer_config.json": {"tokenizer_class": tokenizer_class, "chat_template": TEMPLATE, **config}}


def tekken(ranks: dict[bytes, int]) -> str:
    special = ["<unk>", "<s>", "</s>", "<|user|>"]
    sizes = {"num_vocab_tokens": len(ranks), "default_vocab_size": len(ranks) + len(special)}
    tokens = [{"rank": i, "token_bytes": base64.b64encode(token).decode()} for token, i in ranks.items()]
    content = {
        "config": {"pattern": r"\p{L}+|\p{N}|[^\p{L}\p{N}]", "default_num_special_tokens": len(special), **sizes},
        "vocab": [{**token, "token_str": None} for token in tokens],
        "special_tokens": [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(special)],
    }
    return json.dumps(content)


KINDS: dict[str, Callable[[Train, dict[bytes, int], Path], Files]] = {
    "llama": lambda train, ranks, folder: llama(train),
    "llama without the newer rule": lambda train, ranks, folder: llama(
        train, **{"tokenizer_config.json": {**LLAMA, "legacy": True, "add_eos_token": True, "add_bos_token": False}}
    ),
    "llama with tokens of its own": lambda train, ranks, folder: llama(
        train,
        **{
            "added_tokens.json": {"<|user|>": 340, "<|other|>": 341},
            "special_tokens_map.json": {**NAMED, "additional_special_tokens": ["<|user|>"]},
        },
    ),
    "llama with listed tokens": lambda train, ranks, folder: llama(
        train,
        **{
            "tokenizer_config.json": {
                **LLAMA,
                "added_tokens_decoder": {
                    **{str(i): {**USER, "content": text, "special": True} for i, text in enumerate(["<unk>", "<s>"])},
                    "340": {**USER, "special": False},
                },
            }
        },
    ),
    "described by config.json alone": lambda train, ranks, folder: {
        "tokenizer.model": train(),
        "config.json": {"model_type": "llama"},
    },
    "no class that is known": lambda train, ranks, folder: {
        "tokenizer.model": train(user_defined_symbols=["<|user|>"]),
        "tokenizer_config.json": {"tokenizer_class": "InternLM2Tokenizer", **NAMED},
    },
    "gemma": lambda train, ranks, folder: gemma(train),
    "t5": lambda train, ranks, folder: {
        "spiece.model": train(model_type="unigram", byte_fallback=False, vocab_size=70, pad_id=3),
        "tokenizer_config.json": {"tokenizer_class": "T5Tokenizer", "extra_ids": 4, "eos_token": "</s>"},
    },
    "gpt2": lambda train, ranks, folder: byte_level_files("GPT2Tokenizer", folder, eos_token="</s>", bos_token="<s>"),
    "opt": lambda train, ranks, folder: byte_level_files(
        "GPT2Tokenizer", folder, add_bos_token=True, bos_token={**BEGIN, "__type": "AddedToken"}, eos_token="</s>"
    ),
    "qwen2": lambda train, ranks, folder: byte_level_files("Qwen2Tokenizer", folder, eos_token="</s>"),
    "tekken": lambda train, ranks, folder: {"tekken.json": tekken(ranks), "tokenizer_config.json": LLAMA},
    "tiktoken": lambda train, ranks, folder: {
        "tokenizer.model": tiktoken_file(ranks),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|eot|>",
            "added_tokens_decoder": {str(len(ranks)): {**USER, "content": "<|eot|>", "special": True}},
        },
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_texts_and_templates_are_transformers(
    kind: str, sentencepiece: Train, ranks: dict[bytes, int], tmp_path: Path
) -> None:
    scratch = write(tmp_path / "scratch", {})
    folder = write(tmp_path / "model", KINDS[kind](sentencepiece, ranks, scratch))
    convert_tokenizer(folder, tmp_path / "made")
    ours, theirs = Tokenizer.load(tmp_path / "made"), AutoTokenizer.from_pretrained(folder)
    assert ours.special_tokens == theirs.special_tokens_map
    for text in texts("<s>", "</s>", "<|user|>", "<|other|>", "<|eot|>", "<start_of_turn>", "<extra_id_1>"):
        ids = theirs(text).input_ids
        assert ours.encode(text) == ids
        assert ours.encode(text, add_special_tokens=False) == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    if theirs.chat_template:
        messages = [{"role": "user", "content": "Hi"}]
        assert ours.apply_chat_template(messages) == theirs.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tokenizer.model": b"\x0a\xffnonsense", "tokenizer_config.json": LLAMA}, ""),
        ({"tokenizer.model": b"", "tokenizer_config.json": LLAMA}, "it holds no tokens"),
        ({"vocab.json": "{", "merges.txt": "", "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}}, ""),
        ({"vocab.json": {"a": 0}, "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}}, "merges"),
        ({"vocab.json": {"a": 0}, "tokenizer_config.json": LLAMA}, "LlamaTokenizer needs tokenizer.model"),
        ({"tokenizer.model": b"", "tokenizer_config.json": "["}, "tokenizer_config.json is not readable JSON"),
        ({"tokenizer.model": b"", "tokenizer_config.json": []}, "must hold a JSON object"),
        (
            {
                "vocab.txt": "a",
                "tokenizer_config.json": {"tokenizer_class": "My", "auto_map": {"AutoTokenizer": ["x.My", None]}},
            },
            "My is code of its repository, which is never run",
        ),
    ],
)
def test_what_cannot_be_converted_says_why(files: Files, words: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", files)
    with pytest.raises(ConversionError) as caught:
        convert_tokenizer(folder, tmp_path / "made")
    assert words in str(caught.value)
    assert str(caught.value)
    assert not (tmp_path / "made").exists()


def test_the_process_is_confined_before_it_reads_the_folder(
    sentencepiece: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: dict[str, int] = {}

    def confine(**given: int) -> None:
        assert not (tmp_path / "made").exists()
        limits.update(given)

    folder = write(tmp_path / "model", llama(sentencepiece))
    monkeypatch.setattr(tokenizer_child, "confine", confine)
    monkeypatch.setattr("sys.argv", ["tokenizer_child", str(folder), str(tmp_path / "made")])
    mask = os.umask(0o022)
    try:
        tokenizer_child.main()
    finally:
        os.umask(mask)
    assert limits.keys() == {"memory_bytes", "seconds", "file_bytes"}
    assert (tmp_path / "made" / "tokenizer.json").stat().st_mode & 0o777 == 0o600


def test_code_of_the_folder_is_not_run(sentencepiece: Train, tmp_path: Path) -> None:
    """Neither the tokenizer's nor the model's."""
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass My: pass\n"
    auto_map = {"AutoTokenizer": ["trap.My", None], "AutoConfig": "trap.My"}
    for config in ({"auto_map": auto_map, "tokenizer_class": "My"}, {"tokenizer_class": "LlamaTokenizer", **NAMED}):
        files = llama(sentencepiece, **{"tokenizer_config.json": config, "trap.py": trap})
        files["config.json"] = {"model_type": "my", "auto_map": auto_map}
        folder = write(tmp_path / "model", files)
        if "auto_map" in config:
            with pytest.raises(ConversionError, match="never run"):
                convert_tokenizer(folder, tmp_path / "made")
        else:
            convert_tokenizer(folder, tmp_path / "made")
            assert json.loads((tmp_path / "made" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert not (tmp_path / "ran").exists()
