"""The bodies that /v1 accepts, as msgspec reads them: wrong types are refused by name, unknown fields are ignored.

`None` always means "not given". Fields typed Any are those that are only ever refused (unsupported.py).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from multiflora_adapters.mixes.recipe import Combination
from multiflora_engine.protocol.sampling_params import StructuredOutputsParams
from multiflora_platform.text.message_parts import Order


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    """strict: objects of the schema hold what it names, and nothing else."""

    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """json_schema: for that type. schema: for json_object, which then follows it (llama.cpp's, Together's), and of
    json_schema where a client writes it flat. value: the same (TGI's). format, or structures and triggers: for
    structural_tag (vLLM's)."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None
    value: dict[str, Any] | None = None
    format: dict[str, Any] | None = None
    structures: list[dict[str, Any]] | None = None
    triggers: list[str] | None = None


class AdapterWeight(msgspec.Struct, frozen=True):
    """One part of a mix: an adapter's name (`name@alias` and `name@3`, too) and its share."""

    name: str
    weight: float = 1.0


class EngineRequest(msgspec.Struct, kw_only=True, frozen=True):
    """What every request to the engine says. adapters: several, combined on top of the base model: their weighted sum,
    or what PEFT's combination_type makes of them. density: the share of values that it keeps, where it prunes.
    combination_seed: for what DARE keeps; without it, the request's seed. speculation: whether tokens are drafted by
    prompt lookup, which changes no answer.
    """

    model: str
    adapters: list[AdapterWeight] | None = None
    combination: Combination | None = None
    density: float | None = None
    combination_seed: int | None = None
    user: str | None = None
    speculation: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None
    truncate_prompt_tokens: int | None = None
    add_special_tokens: bool | None = None


class GenerationRequest(EngineRequest, kw_only=True, frozen=True):
    """What completions and chat completions share; names and meaning are OpenAI's, then vLLM's. context: the name of
    one of /api/v1/contexts, which stands before the request's own messages or prompt. regex, ebnf, grammar and
    json_schema: how SGLang and llama.cpp call guided_regex, guided_grammar and guided_json."""

    context: str | None = None
    n: int | None = None
    best_of: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputsParams | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    grammar: str | None = None
    json_schema: str | dict[str, Any] | None = None
    logits_processors: Any = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    chat_template: Any = None


class PromptCacheOptions(msgspec.Struct, frozen=True):
    """comparison_response_id: of the earlier answer that this request is to be compared with. ttl: how long marked
    parts are held, and without the mode `explicit` the whole prompt. prewarm: it is computed, and nothing generated."""

    comparison_response_id: str | None = None
    mode: Literal["implicit", "explicit"] | None = None
    ttl: str | None = None
    prewarm: bool | None = None


class PredictedPart(msgspec.Struct, frozen=True):
    type: Literal["text"]
    text: str


class PredictedContent(msgspec.Struct, frozen=True):
    """What the answer will be like, as the client thinks; parts are put end to end."""

    type: Literal["content"]
    content: str | list[PredictedPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class CompletionRequest(GenerationRequest, kw_only=True, frozen=True):
    """prompt: a string, token ids, or a list of either. logprobs: how many alternatives per token."""

    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None
    prompt_embeds: Any = None


class ChatRequest(GenerationRequest, kw_only=True, frozen=True):
    """messages: checked in messages.py; further keys of a message reach the chat template. tools, reasoning_effort: for
    the template. order: of documents, those beside messages and runs of parts of that type. recompute_share: of the
    tokens of each document that is reused approximately, the first ones, which are computed where it stands."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    order: Order | None = None
    recompute_share: float | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prediction: PredictedContent | None = None
    modalities: list[str] | None = None
    echo: bool | None = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    web_search_options: Any = None


class PoolingRequest(EngineRequest, kw_only=True, frozen=True):
    """What asks for vectors. pooling: of the last token (the default) or the mean of all."""

    pooling: Literal["last", "mean"] | None = None


class ScoreRequest(PoolingRequest, kw_only=True, frozen=True):
    """text_1: one text, or as many as text_2. queries and documents are vLLM's later names of the two."""

    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None


class RerankRequest(PoolingRequest, kw_only=True, frozen=True):
    """documents: texts, or objects with one under `text`. top_n: how many of them the answer has; 0: all."""

    query: str
    documents: list[str | dict[str, Any]]
    top_n: int | None = None
    return_documents: bool | None = None


class EmbeddingRequest(PoolingRequest, kw_only=True, frozen=True):
    """input: a string, token ids, or a list of either. normalize: to length one, unless false."""

    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    normalize: bool | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True, frozen=True):
    """Either prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None
    chat_template: Any = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    order: Order | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True, frozen=True):
    tokens: list[int]
    model: str | None = None


class BatchRequest(msgspec.Struct, kw_only=True, frozen=True):
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


class LoadAdapterRequest(msgspec.Struct, kw_only=True, frozen=True):
    """vLLM's call. load_inplace: replace the adapter of that name. pinned: never evict it (SGLang's)."""

    lora_name: str = ""
    lora_path: str = ""
    load_inplace: bool = False
    pinned: bool | None = None


class UnloadAdapterRequest(msgspec.Struct, kw_only=True, frozen=True):
    lora_name: str = ""
    lora_int_id: int | None = None


BODIES = (
    CompletionRequest,
    ChatRequest,
    EmbeddingRequest,
    ScoreRequest,
    RerankRequest,
    TokenizeRequest,
    DetokenizeRequest,
    BatchRequest,
    LoadAdapterRequest,
    UnloadAdapterRequest,
)


class ResponseRequest(GenerationRequest, kw_only=True, frozen=True):
    """input: a text or a list of items. text: {"format": ...}. include: log-probabilities alone have something to add.
    store is ignored."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    truncation: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    previous_response_id: Any = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None
    context_management: Any = None
