"""The range of each sampling parameter by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

MAX_LOGPROBS = 20
MAX_SEQUENCES = 128
MAX_LOGIT_BIAS = 1024
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_CHARACTERS = 1 << 14
"""Of all together: each is tokenised twice, for every request."""
MAX_STOP_CHARACTERS = 1 << 16
MAX_STOP_TOKEN_IDS = 1024
MAX_LENGTH_PENALTY = 10.0


class InvalidParameter(ValueError):
    """A sampling parameter outside its range; parameter is its name, the message names it, its range and its value."""

    def __init__(self, parameter: str, allowed: str, value: object) -> None:
        super().__init__(f"{parameter} must be {allowed}, got {value!r}")
        self.parameter = parameter


def check_field(name: str, value: Any) -> None:
    """value: in its normal form, not None. Raises InvalidParameter."""
    if name in _CHECKS:
        _CHECKS[name](name, value)


def _integer(low: int, high: int = 2**63 - 1, allowed: str = "") -> Callable[[str, Any], None]:
    allowed = allowed or f"an integer >= {low}" + (f" and <= {high}" if high < 2**63 - 1 else ", of 64 bits")

    def check(name: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidParameter(name, allowed, value)

    return check


def _number(allowed: str, inside: Callable[[float], bool]) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not inside(value):
            raise InvalidParameter(name, allowed, value)

    return check


def _between(low: float, high: float) -> Callable[[str, Any], None]:
    return _number(f"between {low:g} and {high:g}", lambda x: low <= x <= high)


def _boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidParameter(name, "true or false", value)


def _strings(name: str, texts: tuple[Any, ...]) -> None:
    if not all(isinstance(text, str) and text for text in texts):
        raise InvalidParameter(name, "a list of non-empty strings", list(texts))
    _characters(name, texts, MAX_STOP_CHARACTERS)


def _characters(name: str, texts: Iterable[str], most: int) -> None:
    if (count := sum(map(len, texts))) > most:
        raise InvalidParameter(name, f"at most {most} characters, all strings together", f"{count} characters")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise InvalidParameter(name, "without lone surrogates, which are no characters", list(texts)) from None


def _bad_words(name: str, words: tuple[Any, ...]) -> None:
    if len(words) > MAX_BAD_WORDS:
        raise InvalidParameter(name, f"a list of at most {MAX_BAD_WORDS} strings", f"{len(words)} strings")
    if not all(isinstance(text, str) and text.strip() for text in words):
        raise InvalidParameter(name, "a list of non-empty strings", list(words))
    _characters(name, words, MAX_BAD_WORD_CHARACTERS)


def _token_ids(name: str, token_ids: Iterable[Any]) -> None:
    if {*map(type, token_ids)} <= {int} and min(token_ids, default=0) >= 0:
        return  # without a step of Python for each of perhaps a whole vocabulary
    for token in token_ids:
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise InvalidParameter(name, "made of token ids, integers from 0", token)


def _stop_token_ids(name: str, token_ids: tuple[Any, ...]) -> None:
    if len(token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidParameter(name, f"a list of at most {MAX_STOP_TOKEN_IDS} token ids", f"{len(token_ids)} ids")
    _token_ids(name, token_ids)


def _allowed_token_ids(name: str, token_ids: tuple[Any, ...]) -> None:
    if not token_ids:
        raise InvalidParameter(name, "a non-empty list of token ids", [])
    _token_ids(name, token_ids)


def _logit_bias(name: str, biases: dict[Any, Any]) -> None:
    if len(biases) > MAX_LOGIT_BIAS:
        raise InvalidParameter(name, f"a map of at most {MAX_LOGIT_BIAS} token ids", f"{len(biases)} ids")
    _token_ids(name, biases)
    for token, bias in biases.items():
        _number(f"between -100 and 100 for token {token}", lambda x: -100 <= x <= 100)(name, bias)


def _early_stopping(name: str, value: Any) -> None:
    if not isinstance(value, bool) and value != "never":
        raise InvalidParameter(name, "true, false or 'never'", value)


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "n": _integer(1, MAX_SEQUENCES),
    "best_of": _integer(1, MAX_SEQUENCES),
    "temperature": _number("a finite number >= 0", lambda x: x >= 0),
    "top_p": _number("greater than 0 and at most 1", lambda x: 0 < x <= 1),
    "top_k": _integer(0, allowed="an integer >= 1, or 0 or -1 for all tokens"),
    "min_p": _between(0, 1),
    "presence_penalty": _between(-2, 2),
    "frequency_penalty": _between(-2, 2),
    # Logits are divided by it: beyond these bounds they leave float32, and no token could be chosen.
    "repetition_penalty": _between(1e-3, 1e3),
    "seed": _integer(-(2**63)),
    "stop": _strings,
    "stop_token_ids": _stop_token_ids,
    "include_stop_str_in_output": _boolean,
    "ignore_eos": _boolean,
    "min_tokens": _integer(0),
    "max_tokens": _integer(0),
    "logprobs": _integer(0, MAX_LOGPROBS),
    "prompt_logprobs": _integer(0, MAX_LOGPROBS),
    "logit_bias": _logit_bias,
    "bad_words": _bad_words,
    "allowed_token_ids": _allowed_token_ids,
    "skip_special_tokens": _boolean,
    "spaces_between_special_tokens": _boolean,
    "detokenize": _boolean,
    "use_beam_search": _boolean,
    "length_penalty": _between(-MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY),
    "early_stopping": _early_stopping,
}
