"""What an answer says, whichever way it came: whole or as a stream, as raw JSON or through a client's objects."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Choice:
    text: str = ""
    reason: str | None = None
    stop: str | int | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    tops: list[Any] = field(default_factory=list)


@dataclass
class Answered:
    """choices: by index. usage: (prompt tokens, generated tokens), where it was sent. raw: the JSON, or its chunks."""

    choices: list[Choice]
    usage: tuple[int, int] | None
    raw: Any

    @property
    def said(self) -> list[Choice]:
        return self.choices


def from_whole(answer: dict[str, Any]) -> Answered:
    choices = [_add(Choice(), choice, choice.get("message", choice)) for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(choices)))
    return Answered(choices, _usage(answer["usage"]), answer)


def from_chunks(chunks: Iterable[dict[str, Any]]) -> Answered:
    """Checks, too, what every stream keeps: one id, one finish per choice, nothing after it, usage only at the end."""
    chunks = list(chunks)
    assert len({(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    found: dict[int, Choice] = {}
    usage = None
    for number, chunk in enumerate(chunks):
        if not chunk["choices"]:
            assert number == len(chunks) - 1, "the chunk of usage is the last"
        usage = chunk.get("usage") or usage
        for part in chunk["choices"]:
            choice = found.setdefault(part["index"], Choice())
            assert choice.reason is None, "nothing comes after a finish"
            _add(choice, part, part.get("delta", part))
    assert all(choice.reason for choice in found.values())
    return Answered([found[index] for index in sorted(found)], _usage(usage), chunks)


def read_events(response: httpx.Response) -> list[dict[str, Any]]:
    """The frames of a stream that ended well."""
    assert response.status_code == 200, response.text
    frames = response.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def _add(choice: Choice, part: dict[str, Any], content: dict[str, Any]) -> Choice:
    choice.text += content.get("content", content.get("text")) or ""
    choice.reason = part.get("finish_reason") or choice.reason
    choice.stop = part.get("stop_reason") if part.get("stop_reason") is not None else choice.stop
    choice.token_ids += part.get("token_ids") or []
    logprobs = part.get("logprobs") or {}
    for entry in logprobs.get("content") or []:
        choice.logprobs.append(entry["logprob"])
        choice.tops.append({top["token"]: top["logprob"] for top in entry["top_logprobs"]})
    choice.logprobs += logprobs.get("token_logprobs") or []
    choice.tops += logprobs.get("top_logprobs") or []
    return choice


def _usage(usage: dict[str, Any] | None) -> tuple[int, int] | None:
    if usage is None:
        return None
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0
    return usage["prompt_tokens"], usage["completion_tokens"]
