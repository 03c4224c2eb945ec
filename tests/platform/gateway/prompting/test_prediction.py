"""`prediction` of chat completions: checked, as tokens to the engine, and what became of it in the usage."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.gateway.house import MAX_LEN, House

PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "Hi"}]}


async def ask(house: House, prediction: Any, **fields: Any) -> dict[str, Any]:
    response = await house.post(PATH, {**CHAT, "prediction": prediction, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json())


def sent(house: House) -> list[int] | None:
    return house.engine.requests[-1].prediction_token_ids


async def test_a_text_or_its_parts(house: House) -> None:
    encode = house.services.model.tokenizer.encode
    parts = [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "wörld!"}]
    for content in ("Hello, wörld!", parts):
        await ask(house, {"type": "content", "content": content})
        assert sent(house) == encode("Hello, wörld!", False)
        assert house.engine.requests[-1].speculation is None


async def test_the_usage_tells_what_was_of_use(house: House) -> None:
    house.engine.predicted = (7, 2)
    content = {"type": "content", "content": "Hello"}
    details = {"accepted_prediction_tokens": 7, "rejected_prediction_tokens": 2}
    usage = (await ask(house, content))["usage"]
    assert usage["completion_tokens_details"] == details
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    twice = (await ask(house, content, n=2))["usage"]["completion_tokens_details"]
    assert twice == {name: 2 * count for name, count in details.items()}
    events = await house.events(PATH, {**CHAT, "prediction": content, "stream_options": {"include_usage": True}})
    assert events[-2]["usage"]["completion_tokens_details"] == details


async def test_without_a_prediction_there_is_nothing_to_tell(house: House) -> None:
    assert "completion_tokens_details" not in (await ask(house, None))["usage"]
    assert sent(house) is None
    for content in ("", []):
        usage = (await ask(house, {"type": "content", "content": content}))["usage"]
        assert set(usage["completion_tokens_details"].values()) == {0}
        assert sent(house) == []


async def test_no_more_of_it_than_an_answer_can_have(house: House) -> None:
    await ask(house, {"type": "content", "content": "x" * 1000})
    assert len(sent(house) or ()) == MAX_LEN


@pytest.mark.parametrize(
    ("prediction", "param"),
    [
        ("Hello", "prediction"),
        ({"content": "Hello"}, "prediction"),
        ({"type": "tokens", "content": "Hello"}, "prediction.type"),
        ({"type": "content"}, "prediction"),
        ({"type": "content", "content": None}, "prediction.content"),
        ({"type": "content", "content": 3}, "prediction.content"),
        ({"type": "content", "content": [3]}, "prediction.content"),
        ({"type": "content", "content": [{"type": "image_url", "text": ""}]}, "prediction.content"),
        ({"type": "content", "content": "x" * (1 << 19)}, "prediction.content"),
    ],
)
async def test_what_is_no_prediction_is_refused_by_name(house: House, prediction: Any, param: str) -> None:
    response = await house.post(PATH, {**CHAT, "prediction": prediction})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith(param), response.text
    assert not house.engine.requests
