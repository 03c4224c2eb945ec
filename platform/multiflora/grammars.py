"""Structured output of an offline LLM: compiled in this process, without the bounds that a server sets its clients."""

from __future__ import annotations

import contextlib
from functools import lru_cache

import msgspec

from multiflora.opened_model import OpenedModel
from multiflora_engine.core.grammar_source import GrammarError
from multiflora_engine.protocol.sampling_params import StructuredOutputsParams
from multiflora_engine.sampling.grammars import GrammarVocabulary
from multiflora_platform.structured.formats import structure_of
from multiflora_platform.structured.worker import compile_structure


class LocalGrammars:
    """vocabulary: None for a model whose tokenizer grammars cannot use."""

    def __init__(self, vocabulary: GrammarVocabulary | None, model: OpenedModel) -> None:
        self._vocabulary = vocabulary
        self._has_ends = bool(model.config.eos_token_ids)
        self._special_tokens = model.tokenizer.special_ids_by_text(model.config.vocab_size)
        self._compile = lru_cache(256)(self._compile_encoded)

    @classmethod
    def of(cls, model: OpenedModel) -> LocalGrammars:
        """Where the engine is in another process. Takes a second for a large vocabulary."""
        config = model.config
        vocabulary = None
        with contextlib.suppress(GrammarError):  # the engine warns of it
            vocabulary = GrammarVocabulary(model.tokenizer.definition, config.vocab_size, config.eos_token_ids)
        return cls(vocabulary, model)

    def grammar(self, params: StructuredOutputsParams) -> str:
        """For the engine. Raises ValueError saying what is wrong with it."""
        try:
            encoded = msgspec.json.encode(params)
        except UnicodeEncodeError:
            raise ValueError("structured_outputs holds a lone surrogate, which no answer can have") from None
        return self._compile(encoded)

    def _compile_encoded(self, encoded: bytes) -> str:
        if self._vocabulary is None:
            ends = "its files name no end token: add eos_token_id to generation_config.json"
            reason = "its tokenizer's bytes are not known" if self._has_ends else ends
            raise ValueError(f"structured output cannot be used with this model: {reason}")
        structure = structure_of(msgspec.json.decode(encoded, type=StructuredOutputsParams))
        compiled = compile_structure(structure, self._vocabulary, self._special_tokens)
        if compiled.grammar is None:
            raise ValueError(f"structured_outputs cannot be used: {compiled.error}")
        return compiled.grammar
