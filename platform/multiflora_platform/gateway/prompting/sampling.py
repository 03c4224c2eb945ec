"""A request's sampling fields to the engine's SamplingParams, over the model's generation defaults (as vLLM does); how
long an answer may become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.protocol.sampling_params import SamplingParams, check_vocabulary
from multiflora_engine.protocol.sampling_ranges import InvalidParameter
from multiflora_platform.gateway.schemas.requests import GenerationRequest
from multiflora_platform.web.openai_errors import ApiError, invalid

DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
MAX_STOP_STRINGS = 256
# OpenAI's and vLLM's words: client libraries look for them.
_CONTEXT = "This model's maximum context length is {} tokens (max_model_len)"
_PLAIN = (
    "n",
    "best_of",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "min_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "logit_bias",
    "stop",
    "stop_token_ids",
    "bad_words",
    "allowed_token_ids",
)


class ContextExceeded(ApiError):
    """The prompt, or the prompt and as many tokens of an answer as asked for, do not fit the model's length."""

    def __init__(self, param: str, message: str, count: str, asked: int | None, limit: int) -> None:
        """count: of the prompt's tokens, in words. limit: of the prompt where asked is None, otherwise of both."""
        super().__init__(400, "context_length_exceeded", message, param=param)
        self.count = count
        self.asked = asked
        self.limit = limit


def output_length(num_prompt: int, asked: int | None, default: int | None, limit: int, names: tuple[str, str]) -> int:
    """max_tokens as the engine gets it. limit: tokens of prompt and answer together. default: None is what fits.

    names: the parameters that hold max_tokens and the prompt. Raises ApiError context_length_exceeded naming one.
    """
    room = limit - num_prompt
    if room < (0 if asked == 0 else 1):
        raise prompt_too_long(names[1], str(num_prompt), limit, asked)
    if asked is None:
        return room if default is None else min(default, room)
    if asked > room:
        after = f"after a prompt of {num_prompt}, {room} are left and {names[0]} is {asked}"
        message = f"{_CONTEXT.format(limit)}; {after}."
        raise ContextExceeded(names[0], message, str(num_prompt), asked, limit)
    return asked


def prompt_too_long(name: str, count: str, limit: int, asked: int | None) -> ApiError:
    """count: of the prompt's tokens, in words. asked: 0 when no token of an answer is wanted."""
    most = limit - (asked != 0)
    message = f"{_CONTEXT.format(limit)}; the prompt has {count}, of which at most {most} fit."
    return ContextExceeded(name, message, count, None, most)


def sampling_params(
    request: GenerationRequest,
    defaults: Mapping[str, Any],
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    vocab_size: int,
) -> SamplingParams:
    """Raises ApiError naming the parameter. defaults: of the model's generation_config.json."""
    given = {name: value for name in _PLAIN if (value := getattr(request, name)) is not None}
    for name in DEFAULTED:
        value = getattr(request, name)
        value = _default(defaults, name) if value is None else value
        if value is not None:
            given[name] = value
    if request.use_beam_search:
        given |= {"length_penalty": request.length_penalty, "early_stopping": request.early_stopping}
    if isinstance(given.get("stop"), list) and len(given["stop"]) > MAX_STOP_STRINGS:
        raise invalid("stop", f"stop holds at most {MAX_STOP_STRINGS} strings.")
    try:
        params = SamplingParams(max_tokens=max_tokens, logprobs=logprobs, prompt_logprobs=prompt_logprobs, **given)
        check_vocabulary(params, vocab_size)
    except InvalidParameter as error:
        raise invalid(error.parameter, f"{error}.") from None
    return params


def _default(defaults: Mapping[str, Any], name: str) -> float | int | None:
    """generation_config.json may write top_k as a float."""
    value: float | None = defaults.get(name)
    return int(value) if name == "top_k" and value is not None else value
