"""The model's tokenizer by the calls of transformers that vLLM's programs make on what `get_tokenizer` returns.

Text and ids alone: no tensors, no padding, no truncation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multiflora_platform.text.tokenizer import Tokenizer


class ProgramTokenizer:
    """Names and defaults of arguments are transformers'. Any thread may call."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.bos_token_id = tokenizer.bos_token_id
        self.eos_token_id = tokenizer.eos_token_id
        self.all_special_ids = sorted(tokenizer.special_ids)
        self.special_tokens_map = dict(tokenizer.special_tokens)
        self.bos_token = self.special_tokens_map.get("bos_token")
        self.eos_token = self.special_tokens_map.get("eos_token")

    def __len__(self) -> int:
        return self.vocab_size

    def __call__(self, text: str | Sequence[str], add_special_tokens: bool = True) -> dict[str, Any]:
        """input_ids and attention_mask, of one text or of each."""
        if isinstance(text, str):
            return _encoded(self.encode(text, add_special_tokens))
        return _encoded([self.encode(each, add_special_tokens) for each in text])

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens)

    def decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False) -> str:
        return self._tokenizer.decode([token_ids] if isinstance(token_ids, int) else token_ids, skip_special_tokens)

    def batch_decode(self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[str]:
        return self.convert_ids_to_tokens(self.encode(text, add_special_tokens))

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int | None] | None:
        """None for what is no token."""
        find = self._tokenizer.token_id
        return find(tokens) if isinstance(tokens, str) else [find(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """As the vocabulary writes them; nothing for an id that it lacks."""
        return [token for each in ids if (token := self._tokenizer.token(each)) is not None]

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        return_dict: bool = False,
        **variables: Any,
    ) -> str | list[int] | dict[str, Any]:
        """tokenize: ids instead of the text. variables: of the template. Raises ChatTemplateError, TokenizerError."""
        text = self._tokenizer.apply_chat_template(
            conversation,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            chat_template_kwargs=variables,
            chat_template=chat_template,
        )
        if not tokenize:
            return text
        ids = self.encode(text, add_special_tokens=False)
        return _encoded(ids) if return_dict else ids


def _encoded(ids: list[Any]) -> dict[str, Any]:
    mask = [[1] * len(each) for each in ids] if ids and isinstance(ids[0], list) else [1] * len(ids)
    return {"input_ids": ids, "attention_mask": mask}
