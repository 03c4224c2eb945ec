"""What a request's prompts have taken, counted as OpenAI's usage."""

from __future__ import annotations

from collections.abc import Sequence

from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.schemas.answers import PromptTokensDetails, Usage
from multiflora_platform.gateway.schemas.requests import GenerationRequest


def usage(generations: Sequence[Generation]) -> Usage:
    """Summed over the prompts; every generated token counts, those of candidates that best_of drops, too."""
    prompt = sum(len(generation.request.prompt_token_ids) for generation in generations)
    completion = sum(generation.completion_tokens for generation in generations)
    cached = sum(generation.cached_tokens for generation in generations)
    return Usage(prompt, completion, prompt + completion, PromptTokensDetails(cached))


def wants_usage(body: GenerationRequest) -> tuple[bool, bool]:
    """(a usage chunk at the end, usage in every chunk)."""
    options = body.stream_options
    if options is None:
        return False, False
    return bool(options.include_usage), bool(options.include_usage and options.continuous_usage_stats)
