"""The response object of /v1/responses and its parts, as OpenAI writes them."""

from __future__ import annotations

import time
from typing import Any

from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.schemas.answers import Usage
from multiflora_platform.gateway.schemas.requests import ResponseRequest

Item = dict[str, Any]


class ResponseObject:
    """One response: what the request said, and what has become of it."""

    def __init__(self, admission: Admission, body: ResponseRequest) -> None:
        self._said: dict[str, Any] = {
            "id": f"resp_{admission.id}",
            "object": "response",
            "created_at": int(admission.arrival),
            "background": False,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": body.reasoning or {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "system_fingerprint": admission.fingerprint,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": body.text or {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "user": body.user,
        }

    def begun(self) -> dict[str, Any]:
        return self._with("in_progress", [])

    def ended(self, finish_reason: str | None, output: list[Item], usage: Usage) -> dict[str, Any]:
        """Completed, or incomplete when the answer was cut at its longest."""
        is_cut = finish_reason == "length"
        result = self._with("incomplete" if is_cut else "completed", output)
        result["incomplete_details"] = {"reason": "max_output_tokens"} if is_cut else None
        result["completed_at"] = None if is_cut else int(time.time())
        result["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": usage.prompt_tokens_details,
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.total_tokens,
        }
        return result

    def failed(self, code: str, message: str) -> dict[str, Any]:
        return {**self._with("failed", []), "error": {"code": code, "message": message}}

    def _with(self, status: str, output: list[Item]) -> dict[str, Any]:
        rest = {"error": None, "incomplete_details": None, "usage": None, "output": output}
        return {**self._said, "status": status, **rest}
