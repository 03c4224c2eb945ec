"""Every case of the table, whole and streamed, over plain HTTP: what the parameter promises, and both ways alike."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.e2e.conformance.answers import Answered, from_chunks, from_whole, read_events
from tests.e2e.conformance.cases import CALLS, CHAT, COMPLETIONS, STREAMS, Case, Plain, label, request


def whole(http: httpx.Client, path: str, body: dict[str, Any]) -> Answered:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return from_whole(response.json())


@pytest.mark.parametrize(("path", "case"), CALLS, ids=label)
def test_whole(http: httpx.Client, plains: dict[str, Plain], path: str, case: Case) -> None:
    answered = whole(http, path, request(path, case, plains[path]))
    case.check(answered, plains[path])
    prefix, kind = ("chatcmpl-", "chat.completion") if path == CHAT else ("cmpl-", "text_completion")
    assert answered.raw["id"].startswith(prefix)
    assert answered.raw["object"] == kind


@pytest.mark.parametrize(("path", "case"), STREAMS, ids=label)
def test_streamed(http: httpx.Client, plains: dict[str, Plain], path: str, case: Case) -> None:
    body = request(path, case, plains[path])
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    answered = from_chunks(read_events(http.post(path, json=streamed)))
    case.check(answered, plains[path])
    expected = whole(http, path, body)
    assert answered.usage == expected.usage
    for found, wanted in zip(answered.choices, expected.choices, strict=True):
        assert (found.text, found.reason, found.stop) == (wanted.text, wanted.reason, wanted.stop)
        assert found.token_ids == wanted.token_ids
        assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)


def test_chunks_of_chat(http: httpx.Client, plains: dict[str, Plain]) -> None:
    """Role first, then one token each, then the finish, then usage: `null` before."""
    body = {"model": "sql", "temperature": 0, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
    chunks = read_events(http.post(CHAT, json={**body, "stream": True, "stream_options": {"include_usage": True}}))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in chunks[1:-2])
    assert chunks[-2]["choices"][0]["delta"] == {}
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["choices"] == []
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_usage_in_every_chunk(http: httpx.Client, plains: dict[str, Plain], path: str) -> None:
    body = request(path, CALLS[0][1], plains[path])
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = read_events(http.post(path, json={**body, "stream": True, "stream_options": options}))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == len(plains[path].token_ids)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_no_usage_unless_asked(http: httpx.Client, plains: dict[str, Plain], path: str) -> None:
    body = request(path, CALLS[0][1], plains[path])
    chunks = read_events(http.post(path, json={**body, "stream": True}))
    assert not any("usage" in chunk for chunk in chunks)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_ids_and_times(http: httpx.Client, plains: dict[str, Plain], path: str) -> None:
    body = request(path, CALLS[0][1], plains[path])
    response = http.post(path, json=body, headers={"X-Request-Id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    assert int(response.headers["openai-processing-ms"]) >= 0
    assert http.post(path, json=body).headers["x-request-id"] != http.post(path, json=body).headers["x-request-id"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_an_error_within_a_stream_is_a_frame(http: httpx.Client, plains: dict[str, Plain], path: str) -> None:
    body = {**request(path, CALLS[0][1], plains[path]), "ignore_eos": True, "max_tokens": 400, "stream": True}
    response = http.post(path, json=body, headers={"X-Request-Timeout": "0.15"})
    text = response.text if response.status_code == 504 else response.text.split("\n\n")[-2]
    assert "deadline_exceeded" in text
    assert "[DONE]" not in text
