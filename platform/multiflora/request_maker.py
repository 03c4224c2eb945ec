"""From what an offline caller gives (a prompt, parameters, an adapter's name) to the engine's request, checked.

Knows no engine: LLM and AsyncLLMEngine make their requests here and send them to theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import index
from typing import Any, TypedDict

from msgspec.structs import replace

from multiflora.adapters import AdapterNames
from multiflora.collector import Collector
from multiflora.grammars import LocalGrammars
from multiflora.lora_request import LoRARequest
from multiflora.opened_model import OpenedModel
from multiflora_engine.protocol.requests import GenerateRequest, Pooling
from multiflora_engine.protocol.sampling_params import SamplingParams, check_vocabulary
from multiflora_platform.engine_requests import PRIVATE_ENGINE, make_request
from multiflora_platform.gateway.beams.search import search_params
from multiflora_platform.text.errors import NotUnicode, TooManyTokens


class TextPrompt(TypedDict):
    """A prompt as vLLM's programs write it, too."""

    prompt: str


class TokensPrompt(TypedDict):
    """The same, already tokenized."""

    prompt_token_ids: Sequence[int]


Prompt = str | Sequence[int] | TextPrompt | TokensPrompt


# vLLM's other inputs: an answer that left one out unsaid would be another prompt's.
_NOT_READ = ("multi_modal_data", "prompt_embeds", "encoder_prompt", "decoder_prompt")


class PromptTooLong(ValueError):
    """The message says how long it may be."""


@contextlib.contextmanager
def named(prompt: str) -> Iterator[None]:
    """What is wrong with a prompt of several is told with which one it is."""
    try:
        yield
    except (PromptTooLong, NotUnicode) as error:
        raise type(error)(f"{prompt}: {error}") from None


class RequestMaker:
    """max_model_len: what the engine chose; without max_tokens an answer takes what the prompt leaves of it."""

    def __init__(self, model: OpenedModel, adapters: AdapterNames, grammars: LocalGrammars, max_model_len: int) -> None:
        self._model = model
        self._adapters = adapters
        self._grammars = grammars
        self._max_model_len = max_model_len
        self._end_ids = frozenset(model.config.eos_token_ids)

    def make(
        self,
        id: str,
        prompt: Prompt,
        params: SamplingParams,
        adapter: str | LoRARequest | None,
        *,
        priority: int = 0,
        kept_ids: Collection[int] = (),
    ) -> Collector:
        """priority: smaller runs first. kept_ids: of special tokens that stay in the text. Raises TypeError for what is
        no prompt, ValueError for values out of range and for unknown adapters, AdapterRejected for the folder of a
        LoRARequest."""
        if not isinstance(params, SamplingParams):
            raise TypeError(f"sampling parameters are SamplingParams, not {type(params).__name__}: {str(params)[:80]}")
        _check_priority(priority)
        tokenizer = self._model.tokenizer
        text, token_ids = self._tokens(prompt)
        # A copy: the caller may change the parameters while the request runs.
        asked = replace(params)
        check_vocabulary(asked, self._model.config.vocab_size)
        name, digest = self._adapters.resolve(adapter)
        engine_params = _engine_params(asked, max(self._max_model_len - len(token_ids), 1))
        request = make_request(
            token_ids,
            engine_params if not asked.use_beam_search else replace(engine_params, best_of=None),
            tokenizer,
            self._model.config.vocab_size,
            adapter_digest=digest,
            cache=PRIVATE_ENGINE,
            id=id,
            priority=priority,
            grammar=None if asked.structured_outputs is None else self._grammars.grammar(asked.structured_outputs),
        )
        return Collector(
            request,
            asked,
            text,
            name,
            tokenizer,
            lora_request=adapter if isinstance(adapter, LoRARequest) else None,
            beams=search_params(engine_params, self._end_ids) if asked.use_beam_search else None,
            kept_ids=kept_ids,
        )

    def make_embedding(
        self, id: str, prompt: Prompt, adapter: str | LoRARequest | None, pooling: Pooling, *, priority: int = 0
    ) -> GenerateRequest:
        """For the prompt's hidden states and no text. Raises as `make`."""
        _check_priority(priority)
        _, token_ids = self._tokens(prompt)
        return make_request(
            token_ids,
            SamplingParams(max_tokens=0),
            adapter_digest=self._adapters.resolve(adapter)[1],
            cache=PRIVATE_ENGINE,
            id=id,
            priority=priority,
            pooling=pooling,
        )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Raises PromptTooLong as soon as that is known, and NotUnicode."""
        try:
            return self._model.tokenizer.encode(text, add_special_tokens, most=self._max_model_len)
        except TooManyTokens as error:
            count = f"{'' if error.is_exact else 'at least '}{error.count}"
            raise PromptTooLong(f"the prompt has {count} tokens; the model's length is {self._max_model_len}") from None

    def _tokens(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        """The prompt's text, if it has one, and its ids."""
        text, ids = _text_or_ids(prompt)
        tokenizer, vocab_size = self._model.tokenizer, self._model.config.vocab_size
        token_ids = self.encode(text or "") if ids is None else ids
        if not all(0 <= token < vocab_size for token in token_ids):
            # A conversation comes with its ids, too, and is no less a text.
            of_text = ids is None or (text is not None and all(0 <= token < tokenizer.vocab_size for token in ids))
            if of_text and (reason := tokenizer.beyond(token_ids, vocab_size)) is not None:
                raise ValueError(f"prompt {reason}")
            raise ValueError(f"prompt token ids must be from 0 to {vocab_size - 1}")
        return text, token_ids

    def takes_long(self, params: SamplingParams | None, adapter: str | LoRARequest | None) -> bool:
        """Whether `make` will read a folder or compile a grammar, for which an event loop should not wait."""
        asks_for_form = isinstance(params, SamplingParams) and params.structured_outputs is not None
        return asks_for_form or self._adapters.needs_reading(adapter)


def _check_priority(priority: int) -> None:
    if not isinstance(priority, int) or not -(2**63) <= priority < 2**63:
        raise ValueError(f"priority must be an integer of 64 bits, got {priority!r}")


def _engine_params(asked: SamplingParams, room: int) -> SamplingParams:
    """max_tokens always set, and the log-probabilities by which best_of chooses."""
    params = asked if asked.max_tokens is not None else replace(asked, max_tokens=room)
    if params.use_beam_search and (params.max_tokens or 0) > room:
        params = replace(params, max_tokens=room)  # sampled answers end there by themselves
    if params.num_sequences > params.n and params.logprobs is None and not params.use_beam_search:
        params = replace(params, logprobs=0)
    return params


def _text_or_ids(prompt: Prompt) -> tuple[str | None, list[int] | None]:
    """One of the two, or both: then the ids count. Raises TypeError for what is neither."""
    if isinstance(prompt, str):
        return prompt, None
    text, ids = _under_keys(prompt) if isinstance(prompt, Mapping) else (None, prompt)
    if ids is None and isinstance(text, str):
        return text, None
    if not isinstance(ids, Iterable) or isinstance(ids, str | bytes | Mapping):
        raise no_prompt(prompt)
    try:
        return text if isinstance(text, str) else None, [index(token) for token in ids]
    except TypeError:
        raise no_prompt(prompt) from None


def _under_keys(prompt: Mapping[str, Any]) -> tuple[Any, Any]:
    for key in _NOT_READ:
        if prompt.get(key) is not None:
            raise TypeError(f"models read text alone: leave {key!r} out of the prompt")
    return prompt.get("prompt"), prompt.get("prompt_token_ids")


def no_prompt(value: object) -> TypeError:
    return TypeError(
        "a prompt is a string or a list of token ids, or either under its key ('prompt', 'prompt_token_ids'), "
        f"not {type(value).__name__}: {str(value)[:80]}"
    )
