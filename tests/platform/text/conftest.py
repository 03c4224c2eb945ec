"""Small tokenizers of each kind that the supported model families use, as folders that transformers reads, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from multiflora_platform.text.tokenizer import Tokenizer

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "naïve café — 日本語 🌸🌸",
    "def f(x):\n    return  x + 1\n",
] * 4
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>"]


def byte_level() -> RustTokenizer:
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    rust.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    rust.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", rust.token_to_id("<s>"))]
    )
    return rust


def byte_fallback(vocab: dict[str, int], merges: list[tuple[str, str]]) -> RustTokenizer:
    rust = RustTokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return rust


def sentencepiece() -> RustTokenizer:
    """As Llama 2, Mistral and Phi-3: `▁` for spaces, <0xNN> for what the vocabulary lacks."""
    words = [
        "▁the",
        "▁quick",
        "▁",
        "th",
        "e",
        "t",
        "h",
        "q",
        "u",
        "i",
        "c",
        "k",
        "a",
        "b",
        "\n",
        "é",
        "▁▁",
        "qu",
        "ick",
    ]
    tokens = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *words, "▁t", "he", "▁q", "▁qu", "ic"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("q", "u"), ("i", "c"), ("ic", "k"), ("qu", "ick"), ("▁", "quick")]
    vocab = {token: i for i, token in enumerate([*tokens, "the", "quick"])}
    rust = byte_fallback(vocab, merges)
    rust.add_special_tokens(SPECIAL)
    return rust


def metaspace() -> RustTokenizer:
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.Metaspace()
    rust.decoder = decoders.Metaspace()
    rust.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False))
    return rust


def word_pieces() -> RustTokenizer:
    """A decoder whose output is not the tokens put end to end."""
    vocab = {token: i for i, token in enumerate(["[UNK]", *SPECIAL, "the", "##re", "fox", "##es", ".", ",", "é"])}
    rust = RustTokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.decoder = decoders.WordPiece()
    rust.add_special_tokens(SPECIAL)
    return rust


KINDS = {
    "byte_level": byte_level,
    "sentencepiece": sentencepiece,
    "metaspace": metaspace,
    "word_pieces": word_pieces,
}


def save(folder: Path, rust: RustTokenizer, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rust.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(save(tmp_path_factory.mktemp(request.param), KINDS[request.param]()))


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("folder"), byte_level())
