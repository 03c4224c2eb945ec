"""The header `x-cache-reason`: on every answer, whole or streamed, and nothing in it about other tenants."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.gateway.house import ADMIN, OTHER, TENANT, House

LONG = "Say hello to everybody, please."
USER = {"messages": [{"role": "user", "content": LONG}]}
WAYS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": LONG},
    "/v1/chat/completions": USER,
    "/v1/responses": {"input": LONG},
    "/v1/messages": {**USER, "max_tokens": 3},
    "/v1/embeddings": {"input": LONG},
    "/v1/score": {"text_1": LONG, "text_2": LONG},
    "/v1/rerank": {"query": LONG, "documents": [LONG]},
}


async def reason(house: House, path: str = "/v1/completions", key: str = ADMIN, **body: Any) -> str | None:
    asked = {"model": "sql", **WAYS[path], **body}
    response = await house.post(path, asked, Authorization=f"Bearer {key}")
    assert response.status_code == 200, response.text
    return response.headers.get("x-cache-reason")


@pytest.mark.parametrize("path", WAYS)
async def test_every_answer_has_it(house: House, path: str) -> None:
    house.engine.miss_reason = "evicted"
    assert [await reason(house, path), await reason(house, path, stream=True)] == ["evicted", "evicted"]


async def test_a_prompt_that_lacked_nothing_and_one_without_a_whole_block(house: House) -> None:
    assert await reason(house) == "none"
    # A block has 16 tokens, and the last token is always computed.
    assert await reason(house, prompt="x" * 17) == "none"
    assert await reason(house, prompt="x" * 16) == "too_short"
    assert await reason(house, prompt=["x", LONG]) == "too_short"


async def test_of_several_prompts_the_first_that_missed_counts(house: House) -> None:
    play = house.engine.generate

    def second_misses(request: Any) -> Any:
        house.engine.miss_reason = "diverged" if house.engine.requests else ""
        return play(request)

    house.engine.generate = second_misses  # type: ignore[method-assign]
    assert await reason(house, prompt=[LONG, LONG]) == "diverged"


@pytest.mark.parametrize("cause", ["other_tenant", "other_adapter"])
async def test_what_others_have_cached_is_told_to_admins_alone(house: House, cause: str) -> None:
    house.engine.miss_reason = cause
    assert [await reason(house, key=ADMIN), await reason(house, key=TENANT)] == [cause, "first_seen"]


async def test_a_tenant_hears_of_its_own_other_adapters(house: House) -> None:
    house.engine.miss_reason = "other_adapter"
    assert await reason(house, key=OTHER, model="base") == "first_seen"
    assert [await reason(house, key=TENANT, model=model) for model in ("sql", "base")] == [
        "first_seen",
        "other_adapter",
    ]
    assert await reason(house, key=TENANT, model="base", prompt=LONG[::-1]) == "first_seen"


async def test_after_a_restart_it_is_the_restart(house: House) -> None:
    house.engine.miss_reason = "first_seen"
    assert await reason(house) == "first_seen"
    house.supervisor.restarts += 1
    assert await reason(house) == "engine_restarted"


async def test_without_a_prefix_cache_there_is_none(make_house: Any) -> None:
    house = make_house({"enable_prefix_caching": False})
    async with house.http:
        assert await reason(house) is None
