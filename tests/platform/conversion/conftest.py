"""Vocabularies as checkpoints had them before tokenizer.json: sentencepiece, vocab.json and merges.txt, tiktoken."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer
from tests.platform.text.conftest import CORPUS, SPECIAL, byte_level
from transformers.convert_slow_tokenizer import bytes_to_unicode

PARTS = [
    *("the quick", " brown", "fox", "  ", "   ", " ", "\n", "\n\n", "\t", "1234", " 7", "don't", "THE", "lazy dog."),
    *(
        "naïve",
        " café",
        "日本語",
        "🌸",
        "🌸🌸",
        "é",
        "e\u0301",
        "ﬁ",
        "½",
        "Ⅷ",
        "\u00a0",
        "\u200b",
        "▁",
        "▁▁x",
        "—",
        "ß",
    ),
]


def texts(*special: str, count: int = 80) -> list[str]:
    """Random ones of words, runs of spaces, characters of several bytes and forms, and these tokens."""
    rng = random.Random(7)
    parts = [*PARTS, *special]
    return ["", " ", *("".join(rng.choices(parts, k=rng.randrange(1, 9))) for _ in range(count))]


@pytest.fixture(autouse=True)
def _no_cache_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a child has it; tiktoken keeps what it read by the file's path."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")


@pytest.fixture(scope="session")
def sentencepiece() -> Callable[..., bytes]:
    """The content of a tokenizer.model; settings: the trainer's."""
    made: dict[str, bytes] = {}

    def train(**settings: Any) -> bytes:
        key = repr(sorted(settings.items()))
        if key not in made:
            content = io.BytesIO()
            SentencePieceTrainer.train(
                sentence_iterator=iter(line for text in CORPUS for line in text.splitlines()),
                model_writer=content,
                **{
                    "vocab_size": 340,
                    "model_type": "bpe",
                    "byte_fallback": True,
                    "hard_vocab_limit": False,
                    "normalization_rule_name": "identity",
                    "remove_extra_whitespaces": False,
                    "minloglevel": 2,
                    **settings,
                },
            )
            made[key] = content.getvalue()
        return made[key]

    return train


@pytest.fixture(scope="session")
def ranks() -> dict[bytes, int]:
    """The tokens of a byte-level vocabulary without special ones, by rank."""
    alphabet = {char: byte for byte, char in bytes_to_unicode().items()}
    vocab = json.loads(byte_level().to_str())["model"]["vocab"]
    ordered = sorted(vocab.keys() - set(SPECIAL), key=vocab.__getitem__)
    tokens = [bytes(alphabet[char] for char in token) for token in ordered]
    singles = sorted({token for token in tokens if len(token) == 1})
    return {token: rank for rank, token in enumerate([*singles, *(token for token in tokens if len(token) > 1)])}


def tiktoken_file(ranks: dict[bytes, int]) -> str:
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Text, bytes, or what is written as JSON, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text, encoding="utf-8")
    return folder
