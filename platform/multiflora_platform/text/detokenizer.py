"""Token ids to text, one at a time and in constant time; a character is held back until all its bytes have come.

Knows one sequence; not stop strings (stop_strings.py) and not why a sequence ends.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from typing import Protocol

from multiflora_platform.text.tokenizer import Tokenizer

_CONTEXT = 5


class Detokenizer(Protocol):
    def push(self, token_id: int) -> str:
        """The text that is certain now; often empty."""

    def flush(self) -> str:
        """At the end: what an unfinished character leaves (U+FFFD)."""


def make_detokenizer(
    tokenizer: Tokenizer,
    prompt_token_ids: Sequence[int] = (),
    *,
    skip_special_tokens: bool = True,
    kept_ids: Collection[int] = (),
    spaces_between_special_tokens: bool = True,
) -> Detokenizer:
    """For a sequence that continues the prompt: a leading space stays unless the text really begins here. kept_ids: of
    special tokens that stay where the others are skipped."""
    skipped = tokenizer.special_ids.difference(kept_ids) if skip_special_tokens else frozenset()
    if tokenizer.token_bytes.is_exact:
        return _ByteDetokenizer(tokenizer, prompt_token_ids, skipped)
    return _WindowDetokenizer(tokenizer, prompt_token_ids, skipped, not spaces_between_special_tokens)


class _ByteDetokenizer:
    """For decoders that put the tokens' bytes end to end; these never put spaces between special tokens."""

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], skipped: frozenset[int]) -> None:
        self._bytes_of = tokenizer.token_bytes.of
        self._skipped = skipped
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._strip = tokenizer.token_bytes.strips_first_space and not prompt_token_ids
        for token_id in prompt_token_ids[-_CONTEXT:]:
            self._decode(self._bytes_of(token_id))

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        text = self._decode(self._bytes_of(token_id))
        if self._strip and text:
            self._strip = False
            text = text.removeprefix(" ")
        return text

    def flush(self) -> str:
        return self._decode(b"", True)


class _WindowDetokenizer:
    """For any decoder: the difference between decoding a short window with and without its new tokens (TGI, vLLM).

    A window whose text ends in U+FFFD waits for more, up to _LONGEST tokens, so that a step's work stays bounded.
    """

    _LONGEST = 8

    def __init__(
        self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], skipped: frozenset[int], tight: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._tight = tight
        self._last_added = False
        self._context = [token_id for token_id in prompt_token_ids if token_id not in skipped][-_CONTEXT:]
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        if token_id in self._skipped or self._tokenizer.token(token_id) is None:
            return ""
        self._pending.append(token_id)
        text = self._new_text()
        if text.endswith("�") and len(self._pending) < self._LONGEST:
            return ""
        is_added = token_id in self._tokenizer.added
        if self._tight and is_added and self._last_added:
            text = self._tokenizer.added[token_id]
        self._last_added = is_added
        self._shift()
        return text

    def flush(self) -> str:
        text = self._new_text() if self._pending else ""
        self._shift()
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]

    def _shift(self) -> None:
        if self._pending:
            self._context, self._pending = (self._context + self._pending)[-_CONTEXT:], []
