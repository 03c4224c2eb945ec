"""What a tenant's policy does to its requests: models, limits, priority, share of the cache, usage."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.platform.gateway.house import ADMIN, OTHER, TENANT, House

from multiflora_engine.protocol.requests import EngineFailure

BODY = {"model": "sql", "prompt": "Say", "max_tokens": 3}


def key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_an_adapter_that_is_not_allowed_does_not_exist(house: House) -> None:
    house.services.keys.set_policy(TENANT, allowed_adapters=("other-*",))
    response = await house.http.post("/v1/completions", json=BODY, headers=key(TENANT))
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert (await house.http.get("/v1/models/sql", headers=key(TENANT))).status_code == 404
    assert (await house.http.get("/v1/models", headers=key(TENANT))).json()["data"] == []
    tokenized = await house.http.post("/tokenize", json={"model": "sql", "prompt": "x"}, headers=key(TENANT))
    assert tokenized.status_code == 404
    house.services.keys.set_policy(TENANT, allowed_adapters=("s?l",))
    assert (await house.http.post("/v1/completions", json=BODY, headers=key(TENANT))).status_code == 200
    assert [card["id"] for card in (await house.http.get("/v1/models", headers=key(TENANT))).json()["data"]] == [
        "sql",
        "sql@canary",
    ]


async def test_requests_per_minute(house: House) -> None:
    house.services.keys.set_policy(TENANT, requests_per_minute=2)
    answers = [await house.http.post("/v1/completions", json=BODY, headers=key(TENANT)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert answers[2].json()["error"]["type"] == "rate_limit_error"
    assert int(answers[2].headers["retry-after"]) == 30
    for others in (OTHER, ADMIN):
        answer = await house.http.post("/v1/completions", json=BODY, headers=key(others))
        assert answer.status_code == 200
        assert "x-ratelimit-limit-requests" not in answer.headers


async def test_tokens_per_minute_count_prompt_and_answer(house: House) -> None:
    house.services.keys.set_policy(TENANT, tokens_per_minute=10)
    first = await house.http.post("/v1/completions", json=BODY, headers=key(TENANT))
    assert first.headers["x-ratelimit-remaining-tokens"] == "4"
    assert (await house.http.post("/v1/completions", json=BODY, headers=key(TENANT))).status_code == 200
    refused = await house.http.post("/v1/completions", json=BODY, headers=key(TENANT))
    assert refused.status_code == 429
    assert "tokens per minute" in refused.json()["error"]["message"]
    assert len(house.engine.requests) == 2


async def test_concurrent_requests_end_with_their_streams(house: House) -> None:
    house.services.keys.set_policy(TENANT, max_concurrent_requests=1)
    house.engine.pace = 0.02
    running = asyncio.create_task(
        house.http.post("/v1/completions", json={**BODY, "stream": True}, headers=key(TENANT))
    )
    await house.until(lambda: house.engine.requests)
    assert (await house.http.post("/v1/completions", json=BODY, headers=key(TENANT))).status_code == 429
    assert (await running).status_code == 200
    assert (await house.http.post("/v1/completions", json=BODY, headers=key(TENANT))).status_code == 200


async def test_the_policy_travels_with_the_request(house: House) -> None:
    house.services.keys.set_policy(TENANT, kv_share=0.25, priority="low")
    house.services.keys.set_policy(OTHER, priority="high")
    for who, priority in ((TENANT, None), (TENANT, 3), (OTHER, None), (OTHER, 2**31 - 1), (ADMIN, None)):
        await house.http.post("/v1/completions", json={**BODY, "priority": priority}, headers=key(who))
    low, lower, high, late, admin = (request.priority for request in house.engine.requests)
    assert high < late < admin < low < lower
    assert [request.cache_share for request in house.engine.requests] == [0.25, 0.25, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_is_what_the_answers_say(house: House, stream: bool) -> None:
    for who, model in ((TENANT, "sql"), (TENANT, "base"), (ADMIN, "sql")):
        body = {**BODY, "model": model, "stream": stream, "n": 2}
        assert (await house.http.post("/v1/completions", json=body, headers=key(who))).status_code == 200
    counted = house.services.usage.counted
    assert set(counted) == {("acme", "sql"), ("acme", None), (None, "sql")}
    assert house.services.usage.keys == {("acme", "k2"), (None, "k1")}
    for counts in counted.values():
        assert (counts.requests, counts.prompt_tokens, counts.completion_tokens) == (1, 3, 6)
        assert (counts.cached_tokens, counts.cache_write_tokens) == (1, 1)


async def test_what_is_refused_is_counted_by_its_cause(house: House) -> None:
    async def refused(status: int, cause: str, **body: Any) -> None:
        for who in (TENANT, ADMIN):
            answer = await house.http.post("/v1/completions", json={**BODY, **body}, headers=key(who))
            assert who == ADMIN or answer.status_code == status, answer.text
        assert house.services.usage.refusals == {("acme", cause): 1}
        house.services.usage.refusals.clear()

    house.services.keys.set_policy(TENANT, requests_per_minute=1)
    assert (await house.http.post("/v1/completions", json=BODY, headers=key(TENANT))).status_code == 200
    policies: list[tuple[dict[str, Any], int, str]] = [
        ({"requests_per_minute": 1}, 429, "requests"),
        ({"tokens_per_minute": 1}, 429, "tokens"),
        ({"max_concurrent_requests": 0}, 429, "concurrent"),
        ({"allowed_adapters": ("other-*",)}, 404, "not_allowed"),
        ({"disabled": True}, 403, "not_allowed"),
    ]
    for policy, status, cause in policies:
        house.services.keys.set_policy(TENANT, **policy)
        await refused(status, cause)
    house.services.keys.set_policy(TENANT)
    await refused(404, "not_allowed", model="there is none")
    house.engine.failure = EngineFailure("server_overloaded", "The queue is full.")
    await refused(429, "overloaded")
    await refused(429, "overloaded", stream=True)
    house.engine.failure = None
    assert (await house.http.post("/v1/completions", json={**BODY, "n": 0}, headers=key(TENANT))).status_code == 400
    assert (await house.http.post("/v1/completions", json=BODY, headers=key(TENANT))).status_code == 200
    assert house.services.usage.refusals == {}
