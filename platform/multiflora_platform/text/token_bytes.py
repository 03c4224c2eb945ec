"""The bytes that each token stands for, for the decoders whose output is the tokens' bytes put end to end.

That holds for byte-level BPE (Llama 3, Qwen, GPT) and for SentencePiece with byte fallback or Metaspace (Llama 2,
Mistral, Phi-3), up to the one leading space that these strip from the start of a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import tokenizers

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class TokenBytes:
    """is_exact: whether the tokenizer's decoder is one of those; otherwise `of` is each token decoded alone."""

    def __init__(self, rust: tokenizers.Tokenizer) -> None:
        self._rust = rust
        self._cache: dict[int, bytes] = {}
        decoder = _decoder(rust)
        convert = _converter(decoder)
        self.is_exact = convert is not None
        self.strips_first_space = self.is_exact and _strips_first_space(decoder)
        self._convert = convert or self._alone

    def of(self, token_id: int) -> bytes:
        """Empty for an id that the vocabulary lacks."""
        known = self._cache.get(token_id)
        if known is None:
            token = self._rust.id_to_token(token_id)
            known = self._cache[token_id] = b"" if token is None else self._convert(token)
        return known

    def _alone(self, token: str) -> bytes:
        token_id = self._rust.token_to_id(token)
        assert token_id is not None, "the token came from this vocabulary"
        return str(self._rust.decode([token_id], skip_special_tokens=False)).encode()


def _decoder(rust: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """The decoder's description as a flat list of steps."""
    if rust.decoder is None:
        return []
    state: dict[str, Any] = json.loads(rust.decoder.__getstate__())
    return list(state["decoders"]) if state.get("type") == "Sequence" else [state]


def _converter(steps: list[dict[str, Any]]) -> Callable[[str], bytes] | None:
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level
    if kinds == ["Metaspace"]:
        mark = str(steps[0]["replacement"])
        return lambda token: token.replace(mark, " ").encode()
    if kinds in (["Replace", "ByteFallback", "Fuse", "Strip"], ["Replace", "ByteFallback", "Fuse"]):
        return _byte_fallback(steps)
    return None


def _byte_fallback(steps: list[dict[str, Any]]) -> Callable[[str], bytes] | None:
    pattern, content = steps[0].get("pattern", {}).get("String"), steps[0].get("content")
    strip: dict[str, Any] = steps[3] if len(steps) == 4 else {"content": " ", "start": 0, "stop": 0}
    if not pattern or content is None or (strip["content"], strip["stop"]) != (" ", 0) or strip["start"] > 1:
        return None

    def convert(token: str) -> bytes:
        byte = _BYTE_TOKEN.match(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(pattern, content).encode()

    return convert


def _strips_first_space(steps: list[dict[str, Any]]) -> bool:
    last = steps[-1]
    if last["type"] == "Strip":
        return bool(last["start"] == 1)
    return bool(last["type"] == "Metaspace" and last.get("prepend_scheme", "always") != "never")


def _byte_level(token: str) -> bytes:
    """As the library's ByteLevel decoder: a token with any character outside the alphabet stands for its own text."""
    alphabet = _byte_level_alphabet()
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:
        return token.encode()


@cache
def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
