"""How to choose tokens: the parameters, their checks that need no device, and their normal form. Torch-free.

Knows the vocabulary's size; not the model's length (the front end compares that) and no text beyond bad words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

MAX_LOGPROBS = 20
MAX_SEQUENCES = 128
MAX_LOGIT_BIAS = 1024
MAX_BAD_WORDS = 1024


class StructuredOutputsParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an answer must look like; field names and meaning are vLLM's. Exactly one of the first six is given.

    json: a JSON schema, as an object or as text. grammar: Lark or GBNF. structural_tag: see structured/formats.py.
    disable_any_whitespace: compact JSON. disable_additional_properties: close objects that leave that open.
    whitespace_pattern: a regular expression for the whitespace in JSON.
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to choose tokens; field names and meaning are vLLM's. `verify` raises ValueError naming the field.

    structured_outputs: for front ends, which make the request's grammar of it; the engine reads that one.
    """

    n: int = 1
    best_of: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    detokenize: bool = True
    structured_outputs: StructuredOutputsParams | None = None

    @property
    def num_sequences(self) -> int:
        """Sequences the engine runs: `best_of` candidates, of which the front end returns the best `n`."""
        return self.best_of or self.n

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-5


class InvalidParameter(ValueError):
    """A sampling parameter outside its range; parameter is its name, the message names it, its range and its value."""

    def __init__(self, parameter: str, allowed: str, value: object) -> None:
        super().__init__(f"{parameter} must be {allowed}, got {value!r}")
        self.parameter = parameter


def verify_sampling_params(params: SamplingParams, vocab_size: int) -> None:
    """Raises InvalidParameter for the first field that is outside its range."""
    _verify_counts(params)
    _verify_numbers(params)
    _verify_tokens(params, vocab_size)
    _verify_strings(params)


def _verify_counts(p: SamplingParams) -> None:
    _integer("n", p.n, 1, MAX_SEQUENCES)
    if p.best_of is not None:
        _integer("best_of", p.best_of, p.n, MAX_SEQUENCES, low_name=f"n ({p.n})")
    if p.max_tokens is not None:
        _integer("max_tokens", p.max_tokens, 0)
    _integer("min_tokens", p.min_tokens, 0, p.max_tokens, high_name=f"max_tokens ({p.max_tokens})")
    _integer("top_k", p.top_k, -1, 2**63 - 1)
    if p.seed is not None:
        _integer("seed", p.seed, -(2**63), 2**63 - 1)
    for name, value in (("logprobs", p.logprobs), ("prompt_logprobs", p.prompt_logprobs)):
        if value is not None:
            _integer(name, value, 0, MAX_LOGPROBS)


def _verify_numbers(p: SamplingParams) -> None:
    _number("temperature", p.temperature, "a finite number >= 0", lambda x: x >= 0)
    _number("top_p", p.top_p, "greater than 0 and at most 1", lambda x: 0 < x <= 1)
    _number("min_p", p.min_p, "between 0 and 1", lambda x: 0 <= x <= 1)
    _number("presence_penalty", p.presence_penalty, "between -2 and 2", lambda x: -2 <= x <= 2)
    _number("frequency_penalty", p.frequency_penalty, "between -2 and 2", lambda x: -2 <= x <= 2)
    # Logits are divided by it: beyond these bounds they leave float32, and no token could be chosen.
    _number("repetition_penalty", p.repetition_penalty, "between 0.001 and 1000", lambda x: 1e-3 <= x <= 1e3)


def _verify_tokens(p: SamplingParams, vocab_size: int) -> None:
    _token_ids("stop_token_ids", p.stop_token_ids, vocab_size)
    if p.allowed_token_ids is not None:
        if not p.allowed_token_ids:
            raise InvalidParameter("allowed_token_ids", "a non-empty list of token ids", [])
        _token_ids("allowed_token_ids", p.allowed_token_ids, vocab_size)
    if len(p.logit_bias) > MAX_LOGIT_BIAS:
        raise InvalidParameter("logit_bias", f"a map of at most {MAX_LOGIT_BIAS} token ids", f"{len(p.logit_bias)} ids")
    _token_ids("logit_bias", p.logit_bias, vocab_size)
    for token, bias in p.logit_bias.items():
        _number("logit_bias", bias, f"between -100 and 100 for token {token}", lambda x: -100 <= x <= 100)


def _verify_strings(p: SamplingParams) -> None:
    if not all(isinstance(text, str) and text for text in p.stop):
        raise InvalidParameter("stop", "a list of non-empty strings", list(p.stop))
    if p.stop and not p.detokenize:
        raise InvalidParameter("detokenize", "true when stop strings are given", p.detokenize)
    if len(p.bad_words) > MAX_BAD_WORDS:
        raise InvalidParameter("bad_words", f"a list of at most {MAX_BAD_WORDS} strings", f"{len(p.bad_words)} strings")
    if not all(isinstance(text, str) and text.strip() for text in p.bad_words):
        raise InvalidParameter("bad_words", "a list of non-empty strings", list(p.bad_words))


def _integer(
    name: str, value: object, low: int, high: int | None = None, *, low_name: str = "", high_name: str = ""
) -> None:
    allowed = f"an integer >= {low_name or low}" + (f" and <= {high_name or high}" if high is not None else "")
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        raise InvalidParameter(name, allowed, value)


def _number(name: str, value: object, allowed: str, inside: Callable[[float], bool]) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or not inside(value):
        raise InvalidParameter(name, allowed, value)


def _token_ids(name: str, token_ids: Iterable[object], vocab_size: int) -> None:
    for token in token_ids:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
            raise InvalidParameter(name, f"made of token ids from 0 to {vocab_size - 1}", token)


def normalise_sampling_params(params: SamplingParams) -> SamplingParams:
    """The form that the engine reads, from what people write: None is a field's default, lists become tuples, a lone
    stop string a tuple of one, 8.0 the integer 8, vLLM's top_k=-1 the 0 that also means off.

    Raises InvalidParameter for what cannot be brought into it; whether values are in range is for verify to say.
    """
    given = msgspec.structs.asdict(params)
    changes = {name: _normal(name, value) for name, value in given.items()}
    return msgspec.structs.replace(params, **changes)


_DEFAULTS = msgspec.structs.asdict(SamplingParams())
_LISTS = ("stop", "bad_words", "stop_token_ids", "allowed_token_ids")
_INTEGERS = ("n", "best_of", "top_k", "seed", "min_tokens", "max_tokens", "logprobs", "prompt_logprobs")


def _normal(name: str, value: Any) -> Any:
    if value is None:
        return _DEFAULTS[name]
    if name in _LISTS:
        return _tuple(name, value)
    if name == "logit_bias" and not isinstance(value, Mapping):
        raise InvalidParameter(name, "a map of token ids to numbers", value)
    if name in _INTEGERS and isinstance(value, float) and value.is_integer():
        value = int(value)
    return 0 if name == "top_k" and value == -1 else value


def _tuple(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) and name in ("stop", "bad_words"):
        return (value,)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidParameter(name, "a list", value)
    return tuple(value)


def bad_word_token_ids(bad_words: Iterable[str], encode: Callable[[str], list[int]]) -> list[list[int]]:
    """Token id sequences that must not be completed: each word as it stands at the start of text and after a space.

    encode: text -> ids without special tokens. The form after a space counts only when it is as
    long as the first one and differs at its head (vLLM's rule).
    """
    banned: list[list[int]] = []
    for word in bad_words:
        plain = encode(word.lstrip())
        spaced = encode(" " + word.lstrip())
        banned.append(plain)
        if spaced and plain and spaced[0] != plain[0] and len(spaced) == len(plain):
            banned.append(spaced)
    return [ids for ids in banned if ids]
