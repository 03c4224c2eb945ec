"""How to choose tokens: the parameters, and the form that all readers find them in. Torch-free.

Knows no vocabulary and no model's length: front end and engine compare those. The ranges are sampling_ranges.py's.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from operator import attrgetter, index
from typing import Any, Literal

import msgspec
from msgspec.structs import fields, force_setattr

from multiflora_engine.protocol.sampling_ranges import MAX_SEQUENCES, InvalidParameter, check_field

NEUTRAL_TO_BEAMS: dict[str, tuple[object, ...]] = {
    "temperature": (0, 1),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "logit_bias": ({},),
    "bad_words": ([], ()),
    "allowed_token_ids": (None,),
    "structured_outputs": (None,),
}
"""A search keeps what is likeliest as the model says it; what changes the likelihoods would be ignored."""


_NO_CODE = "code of a caller is never run; use logit_bias, allowed_token_ids or structured_outputs"
_ONLY_VLLMS = {
    "logits_processors": _NO_CODE,
    "extra_args": _NO_CODE,
    "truncate_prompt_tokens": "a prompt is computed whole; give the token ids that shall be kept",
}
"""Of vLLM's parameters, those that cannot be here; None, their default, is taken."""


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


class RequestOutputKind(Enum):
    """What each output of a request holds: everything so far, what is new, or the whole, once."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


class _NamesTheNearest(msgspec.StructMeta):
    """A keyword that is no field is told with the field that was perhaps meant. vLLM's older name of one is taken."""

    def __call__(cls, *args: Any, **given: Any) -> Any:
        if (guided := given.pop("guided_decoding", None)) is not None:
            if given.get("structured_outputs") is not None:
                raise TypeError("guided_decoding is the older name of structured_outputs; give one of them")
            given["structured_outputs"] = guided
        for name in _ONLY_VLLMS.keys() & given.keys():
            if given.pop(name) is not None:
                raise TypeError(f"{cls.__name__} has no parameter {name!r}: {_ONLY_VLLMS[name]}")
        try:
            return super().__call__(*args, **given)
        except TypeError:
            unknown = [name for name in given if name not in cls.__struct_fields__]
            if not unknown:
                raise
        near = difflib.get_close_matches(unknown[0], cls.__struct_fields__, n=1)
        meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(cls.__struct_fields__)}"
        raise TypeError(f"{cls.__name__} has no parameter {unknown[0]!r}{meant}")


class SamplingParams(msgspec.Struct, metaclass=_NamesTheNearest, kw_only=True, omit_defaults=True):
    """How to choose tokens; field names and meaning are vLLM's. Made, assigned to or decoded, it is always in range and
    in its normal form: None is a field's default, lists are tuples, a lone stop string is a tuple of one, 8.0 is the
    integer 8, vLLM's top_k=-1 the 0 that also means off. Raises InvalidParameter, a ValueError, which names the field;
    TypeError for an unknown one.
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
    # None: as much as the model's length leaves.
    max_tokens: int | None = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    detokenize: bool = True
    # For front ends, which make the request's grammar of it; the engine reads that one.
    structured_outputs: StructuredOutputsParams | None = None
    # For front ends, as are the next two: they search on requests for one token each.
    use_beam_search: bool = False
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    # For AsyncLLMEngine.
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        # Also the engine's decoder comes here: what is at its default, as most fields are, costs next to nothing.
        for name, value, default in zip(_DEFAULTS, _values_of(self), _DEFAULTS.values(), strict=True):
            if value is not default and not (value.__class__ is dict and not value):
                force_setattr(self, name, _checked(name, value))
        _check_together(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _DEFAULTS:
            raise AttributeError(f"SamplingParams has no parameter {name!r}")
        before = getattr(self, name)
        force_setattr(self, name, _checked(name, value))
        try:
            _check_together(self)
        except InvalidParameter:
            force_setattr(self, name, before)
            raise

    @property
    def num_sequences(self) -> int:
        """Sequences the engine runs: `best_of` candidates, of which the front end returns the best `n`."""
        return self.best_of or self.n

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-5


_DEFAULTS: dict[str, Any] = {
    field.name: {} if field.default is msgspec.NODEFAULT else field.default for field in fields(SamplingParams)
}
_values_of = attrgetter(*_DEFAULTS)
_LISTS = {"stop", "bad_words", "stop_token_ids", "allowed_token_ids"}
_NUMBERS = {name for name, default in _DEFAULTS.items() if isinstance(default, float)}
_TEXTS = ("stop", "bad_words")
_INTEGERS = {"n", "best_of", "top_k", "seed", "min_tokens", "max_tokens", "logprobs", "prompt_logprobs"}
_MAY_BE_NONE = {name for name, default in _DEFAULTS.items() if default is None} | {"max_tokens"}


def _check_together(p: SamplingParams) -> None:
    """What one field allows another. Raises InvalidParameter."""
    if p.best_of is not None and p.best_of < p.n:
        raise InvalidParameter("best_of", f"an integer >= n ({p.n}) and <= {MAX_SEQUENCES}", p.best_of)
    if p.max_tokens is not None and p.min_tokens > p.max_tokens:
        raise InvalidParameter("min_tokens", f"an integer >= 0 and <= max_tokens ({p.max_tokens})", p.min_tokens)
    if p.stop and not p.detokenize:
        raise InvalidParameter("detokenize", "true when stop strings are given", p.detokenize)
    if p.use_beam_search:
        _check_beams(p)


def _check_beams(p: SamplingParams) -> None:
    for name, allowed in NEUTRAL_TO_BEAMS.items():
        if (value := getattr(p, name)) not in allowed:
            raise InvalidParameter(name, "left out with use_beam_search", value)


def _checked(name: str, value: Any) -> Any:
    """A value in its normal form. Raises InvalidParameter."""
    if value is None:
        return None if name in _MAY_BE_NONE else _DEFAULTS[name]
    value = _normal(name, value)
    check_field(name, value)
    return value


def _normal(name: str, value: Any) -> Any:
    if name in _INTEGERS:
        value = _as_integer(value)
        return 0 if name == "top_k" and value == -1 else value
    if name in _LISTS:
        items = _as_tuple(name, value)
        # Without a step of Python for each of perhaps a whole vocabulary.
        return items if name in _TEXTS or {*map(type, items)} <= {int} else tuple(map(_as_integer, items))
    if name == "logit_bias":
        if not isinstance(value, Mapping):
            raise InvalidParameter(name, "a map of token ids to numbers", value)
        return dict(value)
    if name in _NUMBERS:
        return _as_number(value)
    if name == "structured_outputs" and not isinstance(value, StructuredOutputsParams):
        raise InvalidParameter(name, "StructuredOutputsParams", value)
    if name == "output_kind":
        return _as_output_kind(value)
    return value


def _as_output_kind(value: Any) -> RequestOutputKind:
    try:
        return RequestOutputKind(value)
    except ValueError:
        kinds = ", ".join(f"RequestOutputKind.{kind.name}" for kind in RequestOutputKind)
        raise InvalidParameter("output_kind", f"one of {kinds}", value) from None


def _as_integer(value: Any) -> Any:
    """8.0, and NumPy's integers, as int; anything else stays for the check to name."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int | float) or not hasattr(value, "__index__"):
        return value
    try:
        return index(value)
    except TypeError:  # an array of several has the method, too
        return value


def _as_number(value: Any) -> Any:
    """NumPy's and PyTorch's, as float; anything else stays for the check to name."""
    if isinstance(value, str | int | float):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # an array of several has the method, too
        return value


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) and name in _TEXTS:
        return (value,)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidParameter(name, "a list", value)
    return tuple(value)


def check_vocabulary(params: SamplingParams, vocab_size: int) -> None:
    """Raises InvalidParameter for token ids that the vocabulary lacks."""
    for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
        token_ids = getattr(params, name) or ()
        # None is below 0: their own check says so.
        if max(token_ids, default=0) >= vocab_size:
            token = next(token for token in token_ids if token >= vocab_size)
            raise InvalidParameter(name, f"made of token ids from 0 to {vocab_size - 1}", token)


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
