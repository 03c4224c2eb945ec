"""A request's prompt as people read it and evals ask it: what a rollout keeps beside two answers that differ."""

from __future__ import annotations

from functools import partial
from typing import Any

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.schemas.requests import ChatRequest, CompletionRequest, EngineRequest
from multiflora_platform.registry.changes.rollout_pairs import AskedPrompt

# What an eval's case has, and what changes no greedy answer. All else that a request sets is beyond a case.
_COMMON = frozenset((
    "messages", "prompt", "model", "user", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k",
    "min_p", "seed", "n", "stream", "stream_options", "logprobs", "top_logprobs", "prompt_logprobs", "return_token_ids",
    "return_tokens_as_token_ids", "priority", "cache_salt", "speculation", "prediction", "prompt_cache_options",
    "add_generation_prompt", "include_reasoning", "parallel_tool_calls",
))  # fmt: skip


def asked_prompt(admission: Admission, request: GenerateRequest) -> AskedPrompt:
    """request: one of the admission's."""
    body, tokenizer = admission.body, admission.group.model.tokenizer
    assert request.params.max_tokens is not None, "it was set when the prompt's length was known"
    beyond = [name for name in body.__struct_fields__ if name not in _COMMON and getattr(body, name)]
    question = _question(body)
    if question is None:  # one of several prompts, or one of token ids
        question = {"prompt": tokenizer.decode(request.prompt_token_ids)}
        beyond.append("prompt")
    return AskedPrompt(
        tenant=admission.principal.tenant,
        question=question,
        max_tokens=request.params.max_tokens,
        beyond=beyond,
        decode=partial(tokenizer.decode, skip_special_tokens=True),
    )


def _question(body: EngineRequest) -> dict[str, Any] | None:
    if isinstance(body, ChatRequest):
        return {"messages": body.messages}
    if isinstance(body, CompletionRequest) and isinstance(body.prompt, str):
        return {"prompt": body.prompt}
    return None
