"""A Hugging Face folder's tokenizer on the Rust `tokenizers` library: text to ids and back, special tokens, chats.

Knows files and vocabulary; not models, requests or streams (detokenizer.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from multiflora_engine.models.errors import mistaken_file
from multiflora_platform.text.chat_template import OF_THE_MODEL, ChatOptions, ChatTemplates
from multiflora_platform.text.errors import ChatTemplateError, NotUnicode, TokenizerError, TooManyTokens
from multiflora_platform.text.length_bound import longest_token
from multiflora_platform.text.special_tokens import NAMED, add_tokens, merged_config, own_tokens
from multiflora_platform.text.template_lint import TemplateFinding, lint
from multiflora_platform.text.token_bytes import TokenBytes

_ENDS_OF_CHANNELS = ("<|return|>", "<|call|>")


class Tokenizer:
    """Load with `Tokenizer.load`. Immutable, and safe to use from several threads.

    config: tokenizer_config.json as it stands, but for bos_token and its like, which special_tokens_map.json may set.
    special_tokens: what templates see, e.g. {"bos_token": "<s>"}. special_ids: ids that skip_special_tokens leaves out.
    added: every added token's text by id. token_bytes: the bytes that each id stands for.
    """

    def __init__(
        self,
        rust: tokenizers.Tokenizer,
        config: Mapping[str, Any],
        special_tokens: Mapping[str, str],
        templates: ChatTemplates,
    ) -> None:
        rust.no_truncation()
        rust.no_padding()
        self._rust = rust
        self.config = config
        self.special_tokens = special_tokens
        self.templates = templates
        added = rust.get_added_tokens_decoder()
        self.added = {token_id: token.content for token_id, token in added.items()}
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.vocab_size = rust.get_vocab_size(with_added_tokens=True)
        self.bos_token_id = self._id("bos_token")
        self.eos_token_id = self._id("eos_token")
        self.token_bytes = TokenBytes(rust)

    @cached_property
    def template_findings(self) -> list[TemplateFinding]:
        """What makes prompts of the model's own template miss the prefix cache; looked for once."""
        return lint(self.templates, self.special_tokens)

    @classmethod
    def load(cls, folder: Path | str, chat: ChatOptions = OF_THE_MODEL) -> Tokenizer:
        """Reads tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json, chat_template.jinja
        and additional_chat_templates/. chat: goes before these. Raises TokenizerError."""
        folder = Path(folder)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise TokenizerError(f"{folder} has no tokenizer.json. Give a folder that has one.")
        try:
            rust = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(_mistaken(file) or f"{file} cannot be read: {error}") from None
        config = _read_json(folder / "tokenizer_config.json")
        merged = merged_config(config, _read_json(folder / "special_tokens_map.json"))
        add_tokens(rust, merged, _read_json(folder / "added_tokens.json"))
        rust.encode_special_tokens = bool(merged.get("split_special_tokens"))
        config |= {name: merged[name] for name in NAMED if name in merged}
        templates = ChatTemplates.load(folder, merged.get("chat_template"), chat)
        return cls(rust, config, _special_tokens(merged), templates)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What ends an answer, whatever the model's own files name: the eos token, if there is one, and of a vocabulary
        for channels (gpt-oss) what ends the last message and what waits for a function."""
        own = () if self.eos_token_id is None else (self.eos_token_id,)
        ends = self.special_ids_of(_ENDS_OF_CHANNELS) if self.special_ids_of(("<|channel|>",)) else ()
        return tuple(dict.fromkeys((*own, *sorted(ends))))

    def special_ids_by_text(self, vocab_size: int) -> dict[str, int]:
        """Of those that a model with so many rows knows."""
        return {self.added[token_id]: token_id for token_id in self.special_ids if token_id < vocab_size}

    def special_ids_of(self, texts: Collection[str]) -> frozenset[int]:
        """Of those texts that are special tokens."""
        return frozenset(token_id for token_id in self.special_ids if self.added[token_id] in texts)

    def _least_tokens(self, text: str) -> int:
        longest = self._longest_token
        return 0 if longest is None else len(text) // longest

    @cached_property
    def _longest_token(self) -> int | None:
        return longest_token(json.loads(self.definition))

    @property
    def definition(self) -> str:
        """As tokenizer.json writes it, with the tokens of the other files, without truncation and padding."""
        return str(self._rust.to_str())

    def encode(self, text: str, add_special_tokens: bool = True, *, most: int | None = None) -> list[int]:
        """most: raises TooManyTokens for more, as early as it is known. Raises NotUnicode."""
        if most is not None and (least := self._least_tokens(text)) > most:
            raise TooManyTokens(least, is_exact=False)
        # As a batch of one: it alone lets other threads run meanwhile, and without offsets it is twice as fast.
        try:
            (encoding,) = self._rust.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        except TypeError as error:
            raise NotUnicode.of(text) or error from None
        if most is not None and len(encoding) > most:
            raise TooManyTokens(len(encoding), is_exact=True)
        ids: list[int] = encoding.ids
        return ids

    def encode_with_places(self, text: str, add_special_tokens: bool = True) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids, and from which character of the text to which each one goes; one that the text does not have, such
        as the bos token, goes from 0 to 0."""
        (encoding,) = self._rust.encode_batch([text], add_special_tokens=add_special_tokens)
        return encoding.ids, encoding.offsets

    def beyond(self, token_ids: Iterable[int], vocab_size: int) -> str | None:
        """What of an encoded text a model with so many rows cannot read, in words; None: nothing."""
        if self.vocab_size <= vocab_size:
            return None
        extra = next((token_id for token_id in token_ids if token_id >= vocab_size), None)
        if extra is None:
            return None
        return (
            f"holds {(self.token(extra) or '')[:80]!r}, token {extra} of the tokenizer, which knows {self.vocab_size} "
            f"tokens; the model has {vocab_size} rows, so leave it out"
        )

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The whole text at once; ids that the vocabulary lacks stand for nothing. Lets other threads run meanwhile."""
        (text,) = self._rust.decode_batch([list(token_ids)], skip_special_tokens=skip_special_tokens)
        return str(text)

    def token(self, token_id: int) -> str | None:
        """As the vocabulary writes it, e.g. `Ġthe` or `▁the`; None when it has no such id."""
        token: str | None = self._rust.id_to_token(token_id)
        return token

    def token_id(self, token: str) -> int | None:
        try:
            token_id: int | None = self._rust.token_to_id(token)
        except UnicodeEncodeError:
            return None  # a lone surrogate is part of no token
        return token_id

    def apply_chat_template(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> str:
        """The prompt's text, as transformers renders it. chat_template: the text of another one than the model's, from
        whom the process belongs to. Raises ChatTemplateError, and TokenizerError for a template that is not valid."""
        templates = self.templates if chat_template is None else ChatTemplates({"default": chat_template})
        if templates.is_empty:
            raise ChatTemplateError(
                "This model has no chat template; use /v1/completions, or add chat_template.jinja to its folder."
            )
        variables = {**self.special_tokens, **(chat_template_kwargs or {})}
        return templates.render(
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )

    def _id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return self.token_id(token) if isinstance(token, str) else None


def _special_tokens(merged: Mapping[str, Any]) -> dict[str, str]:
    """What templates see: the text of each special token that has a name. merged: by `merged_config`."""
    tokens = {**{name: merged.get(name) for name in NAMED}, **own_tokens(merged)}
    return {name: text for name, token in tokens.items() if (text := _content(token))}


def _content(token: Any) -> str | None:
    """A token is written as its text or as {"content": text, ...}."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(_mistaken(file) or f"{file} is not readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{file} must hold a JSON object")
    return content


def _mistaken(file: Path) -> str | None:
    """What stands in the place of a file that could not be read, where that shows."""
    try:
        with file.open("rb") as opened:
            return mistaken_file(file, opened.read(64))
    except OSError:
        return None
