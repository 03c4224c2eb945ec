"""A request's use_beam_search, best_of or n, length_penalty and early_stopping to the parameters of a beam search."""

from __future__ import annotations

import math
from typing import Literal

from multiflora_engine.protocol.sampling_params import MAX_LOGPROBS, SamplingParams
from multiflora_platform.gateway.beams.search import BeamParams
from multiflora_platform.gateway.schemas.requests import GenerationRequest, ResponseFormat
from multiflora_platform.web.openai_errors import invalid, unsupported

_MAX_LENGTH_PENALTY = 10.0
# A search keeps what is likeliest as the model says it; what changes the likelihoods would be ignored.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "temperature": (0, 1),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "response_format": (ResponseFormat("text"),),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}


def beam_params(request: GenerationRequest, params: SamplingParams, eos_token_ids: frozenset[int]) -> BeamParams | None:
    """None when sampling is asked for. params: the request's, checked. Raises ApiError naming the parameter."""
    if not request.use_beam_search:
        return None
    for name, allowed in _NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and value not in allowed:
            raise unsupported(name, f"{name} cannot be combined with use_beam_search; leave it out.")
    if not params.max_tokens:
        raise invalid("max_tokens", "max_tokens must be at least 1 with use_beam_search.")
    ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else eos_token_ids)
    width, most = params.num_sequences, MAX_LOGPROBS - len(ends)
    if width > most:
        name = "n" if request.best_of is None else "best_of"
        raise invalid(name, f"{name}, the number of beams, is at most {most} here, got {width}.")
    return BeamParams(width, ends, _length_penalty(request.length_penalty), _early_stopping(request.early_stopping))


def _length_penalty(value: float | None) -> float:
    if value is None:
        return 1.0
    if not math.isfinite(value) or abs(value) > _MAX_LENGTH_PENALTY:
        raise invalid(
            "length_penalty", f"length_penalty must be from -{_MAX_LENGTH_PENALTY:g} to {_MAX_LENGTH_PENALTY:g}."
        )
    return value


def _early_stopping(value: bool | str | None) -> bool | Literal["never"]:
    if isinstance(value, str):
        if value != "never":
            raise invalid("early_stopping", "early_stopping must be true, false or 'never'.")
        return "never"
    return bool(value)
