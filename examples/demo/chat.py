"""Owns the tokenizer, its chat template, and how a conversation becomes token ids with loss weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL = [PAD, END, SYSTEM, USER, ASSISTANT]
VOCAB_SIZE = 1536
MAX_LENGTH = 2048
WORDS = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+")
# Messages as they are; with tools, a signature of each in the system message, and calls in Hermes' form.
CHAT_TEMPLATE = """
{%- if tools -%}
  {{- '<|system|>' -}}
  {%- if messages[0]['role'] == 'system' -%}{{- messages[0]['content'] + '\n\n' -}}{%- endif -%}
  {{- 'Tools:' -}}
  {%- for tool in tools -%}
    {%- set function = tool['function'] -%}
    {{- '\n' + function['name'] + '(' -}}
    {%- for name, schema in function.get('parameters', {}).get('properties', {}).items() -%}
      {{- name + ': ' + (schema['type'] if schema['type'] is string else 'any') + (', ' if not loop.last else '') -}}
    {%- endfor -%}
    {{- ')' -}}
  {%- endfor -%}
  {{- '<|end|>' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message['role'] == 'tool' -%}
    {{- '<|user|><tool_response>\n' + message['content'] + '\n</tool_response><|end|>' -}}
  {%- elif message.get('tool_calls') -%}
    {{- '<|assistant|>' + (message.get('content') or '') -}}
    {%- for call in message['tool_calls'] -%}
      {{- '\n' if message.get('content') or not loop.first else '' -}}
      {{- '<tool_call>\n{"name": ' + call['function']['name'] | tojson + ', "arguments": ' -}}
      {{- call['function']['arguments'] | tojson + '}\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|end|>' -}}
  {%- elif not (tools and loop.first and message['role'] == 'system') -%}
    {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
""".strip()


@dataclass(frozen=True)
class Encoded:
    """Token ids and, for each, whether it belongs to an answer (the closing `<|end|>` included)."""

    ids: list[int]
    is_answer: list[bool]

    def __add__(self, other: Encoded) -> Encoded:
        return Encoded(self.ids + other.ids, self.is_answer + other.is_answer)

    def __len__(self) -> int:
        return len(self.ids)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE: any text round-trips; digits go in pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "model_max_length": MAX_LENGTH,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


class ChatEncoder:
    """Encodes conversations piece by piece, to the same ids as the chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pad, self.end = (SPECIAL.index(token) for token in (PAD, END))  # trained first, in this order
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self._template = environment.from_string(CHAT_TEMPLATE)

    def system(self, text: str) -> Encoded:
        return self._plain(SYSTEM + text + END)

    def example(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], answer: str) -> Encoded:
        """A conversation with tools on offer (none: empty), and the assistant's answer to it."""
        prompt = self._template.render(messages=messages, tools=tools or None, add_generation_prompt=True)
        return self._plain(prompt) + self._answer(answer)

    def turn(self, question: str, answer: str) -> Encoded:
        """A user's message and the assistant's answer."""
        return self._plain(USER + question + END + ASSISTANT) + self._answer(answer)

    def _answer(self, text: str) -> Encoded:
        ids = self.tokenizer.encode(text + END).ids
        return Encoded(ids, [True] * len(ids))

    def _plain(self, text: str) -> Encoded:
        ids = self.tokenizer.encode(text).ids
        return Encoded(ids, [False] * len(ids))
