"""One grammar for one vocabulary: from its text to a matcher that says which tokens may come next. Torch-free.

A grammar is a text as llguidance reads it (Lark, or a JSON list of grammars). The gateway's compiler and the engine
make matchers here, with the same limits, so that what one accepts the other accepts. Knows no requests.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from multiflora_engine.core.grammar_source import GrammarError

MAX_ERROR_CHARACTERS = 400


class GrammarVocabulary:
    """The tokens that grammars choose from.

    definition: the content of a tokenizer.json. vocab_size: of the logits; the tokenizer may have fewer tokens or more.
    eos_token_ids: what may follow a complete text; at least one, all below vocab_size. Raises GrammarError for
    tokenizers whose bytes are not known.
    """

    def __init__(self, definition: str, vocab_size: int, eos_token_ids: Collection[int]) -> None:
        if not eos_token_ids:
            raise GrammarError("the model has no end-of-sequence token, so no structured output could ever end")
        self._tokenizer = _tokenizer(definition, vocab_size, sorted(eos_token_ids))
        self.vocab_size = vocab_size
        self.num_tokens = max(vocab_size, self._tokenizer.vocab_size)
        """Bits of a matcher's masks."""
        self.eos_token_ids = frozenset(eos_token_ids)

    def matcher(self, grammar: str) -> LLMatcher:
        """Before the first token. May take a second for the largest grammars, without the GIL. Raises GrammarError."""
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_limits())
        check(matcher)
        return matcher


def check(matcher: LLMatcher) -> None:
    """Raises GrammarError if the matcher has failed; it never recovers."""
    if matcher.is_error():
        raise GrammarError(_shortened(matcher.get_error()))


def _tokenizer(definition: str, vocab_size: int, ends: list[int]) -> LLTokenizer:
    try:
        return LLTokenizer(definition, n_vocab=vocab_size, eos_token=ends)
    except Exception as error:  # the library raises what its parsers raise
        refusal = GrammarError(f"this model's tokenizer cannot be used with grammars: {error}")
    with contextlib.suppress(Exception):  # as above
        return LLTokenizer(_without_added(definition, vocab_size), n_vocab=vocab_size, eos_token=ends)
    try:
        larger = LLTokenizer(definition, eos_token=ends)  # it takes no size below the tokenizer's own
    except Exception:
        raise refusal from None
    if larger.vocab_size <= vocab_size:
        raise refusal
    return larger


def _without_added(definition: str, vocab_size: int) -> str:
    """A tokenizer.json without the added tokens that the model has no rows for, whose texts it spells out."""
    content = json.loads(definition)
    content["added_tokens"] = [token for token in content.get("added_tokens") or () if token["id"] < vocab_size]
    return json.dumps(content)


def _limits() -> LLParserLimits:
    """Tens of milliseconds for a mask and 100 MB for a lexer at worst; ordinary schemas need a thousandth.

    A row's items bound an ambiguous grammar's time, which grows with their square, and objects to about 250 optional
    properties.
    """
    return LLParserLimits(
        max_items_in_row=1_000,
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=500_000,
        verbose_errors=False,
    )


def _shortened(message: str) -> str:
    """On one line, without the parser's state."""
    text = " ".join(message.partition("<state>")[0].split())
    return text if len(text) <= MAX_ERROR_CHARACTERS else text[:MAX_ERROR_CHARACTERS] + "…"
