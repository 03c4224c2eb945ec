"""What a request's prompts have taken, counted as OpenAI's usage."""

from __future__ import annotations

from collections.abc import Sequence

from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.schemas.answers import (
    CompletionTokensDetails,
    EmbeddingUsage,
    PromptTokensDetails,
    Usage,
)
from multiflora_platform.gateway.schemas.requests import GenerationRequest


def usage(generations: Sequence[Generation]) -> Usage:
    """Summed over the prompts; every generated token counts, those of candidates that best_of drops, too."""
    prompt = _prompt_tokens(generations)
    completion = sum(generation.completion_tokens for generation in generations)
    total = Usage(prompt, completion, prompt + completion, _details(generations))
    if any(generation.request.prediction_token_ids is not None for generation in generations):
        total.completion_tokens_details = CompletionTokensDetails(
            sum(generation.accepted_prediction_tokens for generation in generations),
            sum(generation.rejected_prediction_tokens for generation in generations),
        )
    return total


def embedding_usage(generations: Sequence[Generation]) -> EmbeddingUsage:
    """Summed over the prompts, of which nothing is generated."""
    prompt = _prompt_tokens(generations)
    return EmbeddingUsage(prompt, prompt, _details(generations))


def _prompt_tokens(generations: Sequence[Generation]) -> int:
    return sum(len(generation.request.prompt_token_ids) for generation in generations)


def _details(generations: Sequence[Generation]) -> PromptTokensDetails:
    return PromptTokensDetails(
        cached_tokens=sum(generation.cached_tokens for generation in generations),
        cache_write_tokens=sum(generation.cache_write_tokens for generation in generations),
    )


def wants_usage(body: GenerationRequest) -> tuple[bool, bool]:
    """(a usage chunk at the end, usage in every chunk)."""
    options = body.stream_options
    if options is None:
        return False, False
    return bool(options.include_usage), bool(options.include_usage and options.continuous_usage_stats)
