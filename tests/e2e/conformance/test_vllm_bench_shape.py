"""What `vllm bench serve` sends, and what it reads of the answer: its own package is too large for tests.

Bodies as its backends `openai` and `openai-chat` make them; frames as it divides them, however the bytes come.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from tests.e2e.conformance.cases import CHAT, COMPLETIONS, PROMPT

LENGTH = 16
BODIES: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": PROMPT, "repetition_penalty": 1.0, "max_tokens": LENGTH, "logprobs": None},
    CHAT: {
        "messages": [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
        "max_completion_tokens": LENGTH,
    },
}


def read(response: httpx.Response) -> tuple[str, int, dict[str, Any]]:
    """(text, chunks that count as tokens, usage)."""
    buffer, text, count, usage = "", "", 0, {}
    for piece in response.iter_bytes():
        buffer += piece.decode()
        while "\n\n" in buffer:
            frame, buffer = buffer.split("\n\n", 1)
            data = frame.strip().removeprefix("data: ")
            if data == "[DONE]":
                continue
            chunk = json.loads(data)
            if choices := chunk.get("choices"):
                count += 1
                text += choices[0].get("text") or choices[0].get("delta", {}).get("content") or ""
            elif chunk.get("usage"):
                usage = chunk["usage"]
    assert not buffer
    return text, count, usage


@pytest.mark.parametrize("model", ["multiflora-demo", "sql"])
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_every_request_succeeds_and_is_counted(http: httpx.Client, path: str, model: str) -> None:
    body = {"model": model, **BODIES[path], "ignore_eos": True, "temperature": 0.0}
    whole = http.post(path, json=body).raise_for_status().json()
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with http.stream("POST", path, json=streamed, headers={"x-request-id": "bench-0"}) as response:
        assert response.status_code == 200
        assert response.headers["x-request-id"] == "bench-0"
        text, count, usage = read(response)
    choice = whole["choices"][0]
    assert text == choice.get("text", choice.get("message", {}).get("content"))
    assert usage["completion_tokens"] == LENGTH, "the length that the benchmark asks for"
    assert usage["prompt_tokens"] == whole["usage"]["prompt_tokens"] > 0
    assert count > 1, "a first token, and times between tokens"
